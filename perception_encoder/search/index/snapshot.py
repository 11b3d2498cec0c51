"""An index's rows in one Arrow file beside the table, mapped into memory, so that a search starts at once.

Loading LanceDB takes longer than a search. The seal holds the snapshot's checksum while both are of the same commit;
after the next commit it is out of date and unused, until the next update writes it again.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from perception_encoder.files import remove, replacing
from perception_encoder.search.index.seal import checksum_of
from perception_encoder.vectors import best_rows

MOST_BYTES = 512 << 20
"""Of vectors: an index with more has no snapshot, and LanceDB alone searches it."""
_FILE = "snapshot.arrow"


def nearest_rows(rows: pa.Table, vector: Float[np.ndarray, " D"], top: int) -> tuple[list[float], pa.Table]:
    """Return the `top` highest cosine similarities to a unit vector and their rows, best first."""
    scores, numbers = best_rows(vector, as_matrix(rows), top)
    # slices, since Table.take would first import what takes longer than the search
    return scores.tolist(), pa.concat_tables([rows.slice(number, 1) for number in numbers.tolist()] or [rows])


def as_matrix(rows: pa.Table) -> Float[np.ndarray, "N D"]:
    """Return the vectors of rows, without a copy if they are contiguous."""
    column = rows["vector"].combine_chunks()
    values = np.from_dlpack(column.values).reshape(-1, column.type.list_size)
    return values[column.offset : column.offset + len(column)]


def read_snapshot(directory: Path, checksum: int | None) -> pa.Table | None:
    """Read the snapshot if its CRC-32 is the given one: all rows of a commit without thumbnails, newest first."""
    if checksum is None:
        return None
    try:
        with pa.memory_map(str(directory / _FILE)) as source:
            content = source.read_buffer(source.size())
            return pa.ipc.open_file(content).read_all() if zlib.crc32(content) == checksum else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_snapshot(directory: Path, rows: pa.Table) -> int | None:
    """Write a table's rows, whole or not at all, and return their CRC-32; None if they are too many.

    Raises OSError if they cannot be written.
    """
    if len(rows) * rows["vector"].type.list_size * 4 > MOST_BYTES:
        remove_snapshot(directory)
        return None
    rows = rows.combine_chunks().replace_schema_metadata()
    with (
        replacing(directory / _FILE, through_link=False) as temporary,
        pa.ipc.new_file(str(temporary), rows.schema) as writer,
    ):
        writer.write_table(rows)
    return checksum_of(directory / _FILE)


def remove_snapshot(directory: Path) -> None:
    """Remove the snapshot, if there is one."""
    remove(directory / _FILE)
