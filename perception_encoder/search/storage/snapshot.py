"""A copy of an index's rows next to its table, for searches without LanceDB, whose import takes longer than a search.

`snapshot.arrow` holds all rows, newest first, without vectors and thumbnails. `vectors.f32` holds the vectors, in the
order in which they came; the column `slot` says where a row's vector is. Both are mapped into memory. A large index
also has `vectors.tv`: the vectors with four bits per number (TurboQuant), slot by slot. A search compares the query
with all of these, then exactly with the vectors of the best, so similarities are exact.

An update appends vectors; those of removed rows stay as gaps until there are too many.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from perception_encoder.errors import needs_extra, one_line
from perception_encoder.files import remove, replacing, sync
from perception_encoder.search.storage.rows import among, as_matrix
from perception_encoder.vectors import best_scores

if TYPE_CHECKING:
    from turbovec import TurboQuantIndex

logger = logging.getLogger(__name__)

ROWS, VECTORS, CODES = "snapshot.arrow", "vectors.f32", "vectors.tv"
ROW_ID = "_rowid"
"""LanceDB's number of a row, which changes when a table is compacted."""
LARGE_BYTES = 128 << 20
"""Bytes of vectors from which they are also compressed: comparing all takes about 10 ms (docs/results/search.json)."""
_BLOCK = 16_384  # vectors compressed or compared at a time
_SHORTLIST = 1500  # of the compressed vectors: a first pass reads one bit per number; with 700, recall falls to 0.988
_REFINED = 2, 30  # exact vectors read: per hit, and more
_APPENDED = 10_000  # more new rows than this, and the vectors are written anew
_GAPS = 1.25  # slots per row, at most
_FEW = 2000  # rows that match a condition are compared exactly
_SAMPLED = 4096  # vectors from which the codes take the spread of each dimension
_CONDITION_IDS = 500  # in one condition


class Snapshot:
    """The rows of an open snapshot."""

    def __init__(self, directory: Path, dimension: int, head: str) -> None:
        """Map the files in an index's directory; OSError, ValueError, LookupError or TypeError if they are damaged.

        `head`: the manifest of the commit that they hold.
        """
        self.head = head
        with pa.memory_map(str(directory / ROWS)) as source:
            self.rows = pa.ipc.open_file(source).read_all()
        self.slots = np.from_dlpack(self.rows["slot"].combine_chunks())  # to_numpy would import pandas
        with (directory / VECTORS).open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seek(0, 2) else None
        content = np.empty(0, "<f4") if self._mapped is None else np.frombuffer(self._mapped, "<f4")
        self.vectors: Float[np.ndarray, "S D"] = content.reshape(-1, dimension)
        if len(self.rows) and not -1 < int(self.slots.min()) <= int(self.slots.max()) < len(self.vectors):
            raise ValueError("rows have no vectors")
        self._matching: tuple[str, np.ndarray] | None = None
        self._codes_path = directory / CODES
        self._codes_state = state_of(self._codes_path)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of all rows, newest first."""
        if "vector" not in names:
            return self.rows.select(names)
        return _with_vectors(self.rows, self.vectors[self.slots]).select(names)

    def nearest(
        self, vector: Float[np.ndarray, " D"], top: int, allowed: Int[np.ndarray, " K"] | None = None
    ) -> tuple[list[float], pa.Table]:
        """Return the `top` highest cosine similarities to a unit vector and their rows, best first.

        `allowed`: the numbers of the only rows to compare, in order.
        """
        numbers = np.arange(len(self)) if allowed is None else allowed
        if len(numbers) > _FEW and self._codes is not None:
            numbers = self._shortlist(self._codes, vector, top, allowed)
            scores = self.vectors[self.slots[numbers]] @ vector
            self._release()
        elif allowed is None:
            scores = (self.vectors @ vector)[self.slots]
        else:
            starts = range(0, len(numbers), _BLOCK)
            blocks = [self.vectors[self.slots[numbers[start : start + _BLOCK]]] @ vector for start in starts]
            scores = np.concatenate(blocks or [np.empty(0, np.float32)])
        best = best_scores(scores, top)
        numbers = numbers[best]
        # slices, since Table.take would first import what takes longer than the search
        rows = pa.concat_tables([self.rows.slice(number, 1) for number in numbers.tolist()] or [self.rows.slice(0, 0)])
        return scores[best].tolist(), _with_vectors(rows, self.vectors[self.slots[numbers]])

    def _release(self) -> None:
        """Return the pages of the mapped vectors, which count as this process's memory, where the system can."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _shortlist(
        self, codes: TurboQuantIndex, vector: Float[np.ndarray, " D"], top: int, allowed: Int[np.ndarray, " K"] | None
    ) -> Int[np.ndarray, " K"]:
        """Return the rows, in order, whose compressed vectors are most similar to a vector."""
        mask = None
        if allowed is not None or len(self) < len(self.vectors):
            mask = np.zeros(len(self.vectors), bool)
            mask[self.slots if allowed is None else self.slots[allowed]] = True
        count = _REFINED[0] * top + _REFINED[1]
        _, slots = codes.search(np.ascontiguousarray(vector[None], np.float32), max(_SHORTLIST, count), mask=mask)
        return np.sort(self._rows_of_slots[slots[0, :count]])

    @cached_property
    def _codes(self) -> TurboQuantIndex | None:
        """The compressed vectors; None if there are none, or not those of this snapshot."""
        if self._codes_state is None:
            return None
        try:
            codes = _quantizer().load(str(self._codes_path))
            same = state_of(self._codes_path) == self._codes_state and len(codes) == len(self.vectors)
            return codes if same and codes.dim == self.vectors.shape[1] else None
        except Exception as error:  # the library is missing or another version, or the file is damaged
            logger.warning("compressed vectors cannot be read, so searches compare every row: %s", one_line(error))
            return None

    @cached_property
    def _rows_of_slots(self) -> Int[np.ndarray, " S"]:
        rows = np.empty(len(self.vectors), np.int64)
        rows[self.slots] = np.arange(len(self))
        return rows

    @cached_property
    def _by_row_id(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        row_ids = self.rows[ROW_ID].to_numpy()
        order = np.argsort(row_ids)
        return row_ids[order], order

    def matching(self, condition: str, find: Callable[[], pa.Table | None]) -> Int[np.ndarray, " K"] | None:
        """Return the numbers of the rows that match a condition, in order; those of the last one are remembered.

        `find`: returns LanceDB's numbers of these rows; None, which is returned, if the table has another commit.
        """
        remembered = self._matching
        if remembered is None or remembered[0] != condition:
            found = find()
            if found is None:
                return None
            row_ids, order = self._by_row_id
            at = np.searchsorted(row_ids, found[ROW_ID].to_numpy())
            self._matching = remembered = condition, np.sort(order[at])
        return remembered[1]


def write_snapshot(
    directory: Path,
    rows: pa.Table,
    dimension: int,
    before: Snapshot | None,
    read: Callable[[str | None], Iterator[pa.RecordBatch]],
) -> bool:
    """Write a snapshot of rows, newest first, with LanceDB's numbers; return whether vectors were only appended.

    `before`: an earlier snapshot in `directory`, whose vectors stay. `read`: yields the ids, LanceDB's numbers and
    vectors of the rows that match a condition, or of all.
    """
    remove(directory / ROWS)  # first: the other files alone are not read
    path = directory / VECTORS
    slots = None if before is None or path.is_symlink() else _append(path, rows, before, read)
    appended = slots is not None
    if slots is None:
        slots = _write_vectors(path, rows, read)
    rows = rows.append_column("slot", pa.array(slots)).combine_chunks().replace_schema_metadata()
    with (
        replacing(directory / ROWS) as temporary,
        pa.ipc.new_file(str(temporary), rows.schema) as writer,
    ):
        writer.write_table(rows)
    _write_codes(directory, dimension, appended)
    return appended


def _append(
    path: Path, rows: pa.Table, before: Snapshot, read: Callable[[str | None], Iterator[pa.RecordBatch]]
) -> Int[np.ndarray, " N"] | None:
    """Append the vectors of new rows; return all slots, or None, having written nothing, if new vectors are better."""
    import pyarrow.compute as pc  # here, since a search does without it

    def keys(table: pa.Table) -> pa.ChunkedArray:
        """What tells which rows have the same vector."""
        return pc.binary_join_element_wise(table["id"], table["digest"], " ")

    found = pc.index_in(keys(rows), value_set=keys(before.rows)).fill_null(-1).to_numpy()
    slots = np.where(found < 0, -1, before.slots[found] if len(before) else -1)
    fresh = np.flatnonzero(slots < 0)
    if len(fresh) > _APPENDED or len(before.vectors) + len(fresh) > _GAPS * len(rows):
        return None
    at = {rows["id"][row].as_py(): row for row in fresh.tolist()}
    ids, count = list(at), len(before.vectors)
    with path.open("ab") as file:
        for start in range(0, len(ids), _CONDITION_IDS):
            for batch in read(among("id", ids[start : start + _CONDITION_IDS])):
                file.write(as_matrix(pa.table(batch)).data)
                for row_id in batch["id"].to_pylist():
                    slots[at[row_id]] = count
                    count += 1
    sync(path)
    return slots


def _write_vectors(
    path: Path, rows: pa.Table, read: Callable[[str | None], Iterator[pa.RecordBatch]]
) -> Int[np.ndarray, " N"]:
    """Write all vectors; return the slot of each row."""
    row_ids = rows[ROW_ID].to_numpy()
    order = np.argsort(row_ids)
    slots, count = np.full(len(rows), -1, np.int64), 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for batch in read(None):
            if batch.num_rows:
                file.write(as_matrix(pa.table(batch)).data)
                at = order[np.searchsorted(row_ids, batch[ROW_ID].to_numpy(), sorter=order)]
                slots[at] = np.arange(count, count + batch.num_rows)
                count += batch.num_rows
    return slots


def _write_codes(directory: Path, dimension: int, appended: bool) -> None:
    """Write, or extend, the compressed vectors of a large index; without them, searches compare every row."""
    path, vectors = directory / CODES, directory / VECTORS
    if vectors.stat().st_size < LARGE_BYTES or dimension % 8:
        remove(path)
        return
    try:
        quantizer = _quantizer()
        gallery = np.memmap(vectors, "<f4", "r").reshape(-1, dimension)
        codes = quantizer.load(str(path)) if appended and path.exists() else None
        if codes is None or codes.dim != dimension or len(codes) > len(gallery):
            codes = quantizer(dim=dimension, bit_width=4)
            codes.calibrate(np.ascontiguousarray(gallery[:: max(1, len(gallery) // _SAMPLED)]))
        for start in range(len(codes), len(gallery), _BLOCK):
            codes.add(np.ascontiguousarray(gallery[start : start + _BLOCK]))
        with replacing(path) as temporary:
            codes.write(str(temporary))
    except Exception as error:  # as above, or a full disk
        remove(path)
        logger.warning("vectors cannot be compressed, so searches compare every row: %s", one_line(error))


def _quantizer() -> type[TurboQuantIndex]:
    with needs_extra("search", "turbovec"):
        from turbovec import TurboQuantIndex
    return TurboQuantIndex


def state_of(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from others at its path; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _with_vectors(rows: pa.Table, vectors: Float[np.ndarray, "N D"]) -> pa.Table:
    content = [None, pa.py_buffer(np.ascontiguousarray(vectors))]  # pa.array would import pandas
    values = pa.Array.from_buffers(pa.float32(), vectors.size, content)
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return rows.append_column("vector", column)
