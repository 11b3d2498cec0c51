"""The rows of an index: a picture, or a moment of a video, each; as objects and as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from perception_encoder.search.index.snapshot import as_matrix


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture, or a moment of a video."""

    id: str
    """Short, and the same as long as the file stays where it is."""
    path: str
    """Below the indexed folder, printable: `unescape_name` gives it back; in a tar TAR/MEMBER."""
    kind: str
    """"image" or "video"."""
    start: float | None
    """Of a moment: seconds from the video's first frame."""
    stop: float | None
    time: float | None
    """The frame that is most like the whole moment."""
    length: float | None
    """Seconds that the whole video lasts."""
    width: int
    height: int
    date: str
    """When it was taken, as the picture says, or else changed: "2024-07-31T18:05:00", local time."""
    size: int
    """Bytes of the file."""
    modified: int
    """Nanoseconds since 1970, as the file system says."""
    digest: str
    """Of the file's content."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""
    thumbnail: bytes = b""
    """JPEG; empty where it was not asked for."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What tells whether a file has changed."""

    size: int
    modified: int
    digest: str


def among(column: str, values: Iterable[str]) -> str:
    """SQL: whether a column's value is one of some texts, whatever these hold."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def column_names(thumbnails: bool) -> list[str]:
    """The columns of a row."""
    return [field.name for field in fields(Row) if thumbnails or field.name != "thumbnail"]


def to_rows(found: pa.Table) -> list[Row]:
    """The rows of a table."""
    names = [field.name for field in fields(Row) if field.name != "vector" and field.name in found.column_names]
    columns = [found[name].to_pylist() for name in names]
    matrix = as_matrix(found)
    return [
        Row(**dict(zip(names, values, strict=True)), vector=vector)
        for vector, *values in zip(matrix, *columns, strict=True)
    ]


def schema_of(dimension: int) -> pa.Schema:
    """The table's columns, for embeddings of a dimension."""
    types = {
        **dict.fromkeys(("id", "path", "kind", "date", "digest"), pa.string()),
        **dict.fromkeys(("start", "stop", "time", "length"), pa.float64()),
        **dict.fromkeys(("width", "height", "size", "modified"), pa.int64()),
        "thumbnail": pa.binary(),
        "vector": pa.list_(pa.float32(), dimension),
    }
    return pa.schema([(field.name, types[field.name]) for field in fields(Row)])


def chunks(values: list[str], size: int = 500) -> Iterator[list[str]]:
    """The values in lists that fit one condition."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
