"""Images in the cells of Parquet files, as the Hugging Face hub stores datasets; each is read when it is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError, MediaDecodeError, one_line
from perception_encoder.files import cached_by_file
from perception_encoder.preprocess.source import escape_name

_LOCK = threading.Lock()


@dataclass(frozen=True)
class TableImage:
    """An image in a Parquet file: a cell of bytes, or of `{bytes, path}`, or one of a cell that lists such."""

    path: Path
    row_group: int
    row: int
    """Within the row group."""
    column: str
    index: int | None = None
    """In the cell's list, from 0; None if the cell holds one image."""

    def read(self) -> bytes:
        """Return its bytes; MediaDecodeError if the cell is empty or the file cannot be read.

        A row group's images are read together, and the last two groups stay in memory.
        """
        name = f"{escape_name(self.path)}: row {self.row} of group {self.row_group}"
        try:
            with _LOCK:  # threads that decode ahead want the same group
                value = _read_column(self.path, self.row_group, self.column)[self.row]
                cell = (value if self.index is None else value[self.index]).as_py()
        except (OSError, IndexError, TypeError, ValueError, pa.ArrowException) as error:
            raise MediaDecodeError(name, f"cannot be read: {one_line(error)}") from error
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise MediaDecodeError(name, f"has no image in the column {self.column!r}")
        return content


@cached_by_file(2)
def _read_column(path: Path, row_group: int, column: str) -> pa.ChunkedArray:
    return pq.ParquetFile(path).read_row_group(row_group, columns=[column]).column(column)


def read_image_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], TableImage]]:
    """Yield each row's name, its other cells, and its image, from the first of `columns` that the file has.

    Raises DataError if the file cannot be read or has none of these columns.
    """
    name = escape_name(path)
    try:
        file = pq.ParquetFile(path)
        present = file.schema_arrow.names
        column = next((each for each in columns if each in present), None)
        if column is None:
            allowed, others = " or ".join(map(repr, columns)), ", ".join(map(repr, present))
            raise DataError(f"{name} has no column {allowed} for images, but {others}")
        number = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[each for each in present if each != column])
            for row, cells in enumerate(table.to_pylist()):
                number += 1
                yield f"{name}:{number}", cells, TableImage(path, group, row, column)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from error
