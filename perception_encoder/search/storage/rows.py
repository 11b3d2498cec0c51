"""The rows of an index, one for each image and each moment of a video, as objects and as columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from perception_encoder.errors import ConfigError

_STRING = r"'(?:[^']|'')*'"
_DATE_COMPARISON = re.compile(
    rf"({_STRING})\s*[<>=!]+\s*date\b"
    rf"|\bdate\s*[<>=!]+\s*({_STRING})"
    rf"|\bdate\s+(?:not\s+)?between\s+({_STRING}\s+and\s+{_STRING})"
    rf"|\bdate\s+(?:not\s+)?in\s*\(((?:[^')]|{_STRING})*)\)"
    rf"|{_STRING}",  # any other text is skipped
    re.IGNORECASE,
)
_QUOTED = re.compile(rf"""{_STRING}|"[^"]*"|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_FIRST = "0001-01-01T00:00:00"
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


def among(column: str, values: Iterable[str]) -> str:
    """Return SQL for "the column is one of these texts", quoted."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def column_names(thumbnails: bool) -> list[str]:
    """Return the columns of a row, with or without the thumbnail."""
    return [field.name for field in fields(IndexRow) if thumbnails or field.name != "thumbnail"]


def to_rows(table: pa.Table) -> list[IndexRow]:
    """Convert a table to rows."""
    names = [name for name in column_names(thumbnails=True) if name != "vector" and name in table.column_names]
    columns = [table[name].to_pylist() for name in names]
    return [
        IndexRow(**dict(zip(names, values, strict=True)), vector=vector)
        for vector, *values in zip(as_matrix(table), *columns, strict=True)
    ]


def as_matrix(rows: pa.Table) -> Float[np.ndarray, "N D"]:
    """Return the vectors of rows, without a copy if they are contiguous."""
    column = rows["vector"].combine_chunks()
    values = np.from_dlpack(column.values).reshape(-1, column.type.list_size)
    return values[column.offset : column.offset + len(column)]


def schema_of(dimension: int) -> pa.Schema:
    """Return the table's columns for embeddings of a dimension."""
    types = {
        **dict.fromkeys(("id", "path", "kind", "date", "digest"), pa.string()),
        **dict.fromkeys(("start", "stop", "time", "length"), pa.float64()),
        **dict.fromkeys(("width", "height", "size", "modified"), pa.int64()),
        "thumbnail": pa.binary(),
        "vector": pa.list_(pa.float32(), dimension),
    }
    return pa.schema([(name, types[name]) for name in column_names(thumbnails=True)])


def check_condition(condition: str) -> None:
    """Raise ConfigError for a date that is none, and for a parenthesis that would end what surrounds the condition."""
    depth = 0
    for letter in _QUOTED.sub("", condition):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            raise ConfigError(f"the condition {condition!r} is invalid: it closes a parenthesis that it does not open")
    for compared in _DATE_COMPARISON.finditer(condition):
        for literal in re.findall(_STRING, " ".join(filter(None, compared.groups()))):
            if not _is_date(literal[1:-1]):
                raise ConfigError(
                    f"{literal} is not a date; dates look like '2024', '2024-07', '2024-07-31' or '2024-07-31T18:05:00'"
                )


def _is_date(text: str) -> bool:
    text = text.removesuffix("~")  # after every longer date that begins so
    try:
        return bool(_DATE.fullmatch(text) and datetime.fromisoformat(text + _FIRST[len(text) :]))
    except ValueError:
        return False
