"""The rows of an index, one for each image and each moment of a video."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

_LATEST = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """An image, or a moment of a video."""

    id: str
    """Short, and stable while the file keeps its path."""
    path: str
    """Printable path relative to the indexed directory (see `unescape_name`); TAR/MEMBER in a tar."""
    kind: str
    """"image" or "video"."""
    start: float | None = None
    """For a moment: start in seconds from the video's first frame."""
    stop: float | None = None
    time: float | None = None
    """For a moment: time of the frame most similar to the whole moment."""
    length: float | None = None
    """For a video: total length in seconds."""
    width: int
    height: int
    date: str
    """When it was taken, if it says so, else when the file was changed: "2024-07-31T18:05:00", local time."""
    size: int
    """Size of the file in bytes."""
    modified: int
    """Modification time in nanoseconds since 1970."""
    digest: str
    """Hash of the file's content."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""
    thumbnail: bytes = b""
    """JPEG; empty unless it was requested."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """Shows whether a file has changed."""

    size: int
    modified: int
    digest: str


def time_modified(status: os.stat_result) -> int:
    """Return a file's modification time as in the column `modified`, whose range ends in April 2262."""
    return min(max(status.st_mtime_ns, -_LATEST - 1), _LATEST)


def is_unchanged(row: IndexRow, path: Path) -> bool:
    """Return whether a row's file, which is not in a tar, still has the size and time that it was indexed with."""
    try:
        status = path.stat()
    except OSError:
        return False
    return (row.size, row.modified) == (status.st_size, time_modified(status))
