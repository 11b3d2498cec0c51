"""An index's rows in one Arrow file beside the table, mapped into memory, so that a search starts at once.

Loading LanceDB takes longer than a search. The file bears the names of the table's commits; once these are others, it
is out of date and nobody's, until the next update writes it anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from perception_encoder.files import remove, replacing
from perception_encoder.search.exact import best_rows

MOST_BYTES = 512 << 20
"""Of vectors: an index with more has no snapshot, and is searched by LanceDB alone."""
_FILE, _COMMITS = "snapshot.arrow", b"commits"


class Snapshot:
    """All rows of a table as of one commit, without thumbnails; newest first."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows

    def nearest(self, vector: Float[np.ndarray, " D"], top: int) -> tuple[list[float], pa.Table]:
        """The `top` highest cosine similarities to a unit vector, and their rows, best first."""
        scores, numbers = best_rows(vector[None], as_matrix(self.rows), top)
        # slices, since Table.take would first import what takes longer than the search
        found = pa.concat_tables([self.rows.slice(number, 1) for number in numbers[0].tolist()] or [self.rows])
        return scores[0].tolist(), found


def as_matrix(rows: pa.Table) -> Float[np.ndarray, "N D"]:
    """The vectors of rows, not copied where they lie together."""
    column = rows["vector"].combine_chunks()
    values = np.from_dlpack(column.values).reshape(-1, column.type.list_size)
    return values[column.offset : column.offset + len(column)]


def read_snapshot(place: Path, table: str) -> Snapshot | None:
    """The snapshot in an index's folder, if there is a sound one of the table's last commit."""
    try:
        with pa.memory_map(str(place / _FILE)) as source:
            rows = pa.ipc.open_file(source).read_all()
        return Snapshot(rows) if rows.schema.metadata[_COMMITS] == read_commits(place, table) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_snapshot(place: Path, commits: bytes, rows: pa.Table) -> None:
    """Keep a table's rows, those of some commits; whole or not at all. Raises OSError where they cannot be written."""
    if len(rows) * rows["vector"].type.list_size * 4 > MOST_BYTES:
        remove_snapshot(place)
        return
    rows = rows.combine_chunks().replace_schema_metadata({_COMMITS: commits})
    with replacing(place / _FILE) as temporary, pa.ipc.new_file(str(temporary), rows.schema) as writer:
        writer.write_table(rows)


def remove_snapshot(place: Path) -> None:
    """Remove the snapshot, if there is one."""
    remove(place / _FILE)


def read_commits(place: Path, table: str) -> bytes:
    """Tells a table's state: the names of its commits, which are never given twice."""
    names = sorted(path.name for path in (place / f"{table}.lance" / "_versions").iterdir())
    return "\n".join(names).encode()
