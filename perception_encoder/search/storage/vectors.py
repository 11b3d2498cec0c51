"""The vectors of an index: a file that only grows, mapped into memory, and a cache of compressed ones if it is large.

`vectors-N.f32` holds float32 vectors, slot after slot; compaction begins the next N. `codes-N.tv` holds the same with
four bits per number (TurboQuant). A search compares the query with all of these, then exactly with the vectors of the
best, so scores are exact. Codes may be deleted at any time: searches then compare every vector, and the next update
writes them again.
"""

from __future__ import annotations

import logging
import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perception_encoder.errors import needs_extra, one_line
from perception_encoder.files import open_regular, remove, replacing
from perception_encoder.vectors import best_scores

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from turbovec import TurboQuantIndex

logger = logging.getLogger(__name__)

LARGE_BYTES = 128 << 20
"""Bytes of vectors from which they are also compressed: comparing all takes about 10 ms (docs/results/search.json)."""
_BLOCK = 16_384  # vectors compressed or compared at a time
SHORTLIST = 1500  # of the compressed vectors: a first pass reads one bit per number; with 700, recall falls to 0.988
EXACT_ROWS = 2000  # vectors are compared exactly
_UNCODED_BYTES = 8 << 20  # of vectors after the compressed ones, which are compared exactly too
_MAXIMUM = 1.01  # similarity of unit vectors, which may be rounded
_SAMPLED = 4096  # vectors from which the codes take the spread of each dimension


def vectors_path(store: Path, generation: int) -> Path:
    """Return the path of a file of vectors."""
    return store / f"vectors-{generation}.f32"


def codes_path(store: Path, generation: int) -> Path:
    """Return the path of its compressed vectors."""
    return store / f"codes-{generation}.tv"


class Vectors:
    """The first `slots` vectors of a file, mapped into memory.

    Attributes: `content`, float32 (S, D); `codes`, None if there are none that can be used.
    """

    def __init__(self, store: Path, dimension: int, generation: int, slots: int, coded: bool) -> None:
        """Raises OSError or ValueError if the file is damaged, OutputError if it is a link. `coded`: use the codes."""
        self._codes_path = codes_path(store, generation) if coded else None
        self._mapped, content = None, np.empty(0, "<f4")
        path, size = vectors_path(store, generation), slots * dimension * 4
        with open(open_regular(path, writable=False), "rb") as file:
            if file.seek(0, os.SEEK_END) < size:
                raise ValueError(f"{path.name} has less than {size:,} bytes")
            if size:
                self._mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                content = np.frombuffer(self._mapped, "<f4")
        self.content: Float[np.ndarray, "S D"] = content.reshape(slots, dimension)

    def __len__(self) -> int:
        return len(self.content)

    @np.errstate(over="ignore", invalid="ignore")
    def nearest(
        self, query: Float[np.ndarray, " D"], count: int, allowed: Int[np.ndarray, " A"] | None = None
    ) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """Return the slots of the `count` vectors most similar to a unit vector and their similarities, best first.

        `allowed`: the only slots to compare, in order. ValueError for a similarity that no unit vectors have.
        """
        slots = allowed
        if (len(self) if slots is None else len(slots)) > EXACT_ROWS and self.codes is not None:
            slots = self._shortlist(self.codes, query, count, allowed)
        if slots is None:
            slots, scores = np.arange(len(self)), self.content @ query
        else:
            starts = range(0, len(slots), _BLOCK)
            blocks = [self.content[slots[start : start + _BLOCK]] @ query for start in starts]
            scores = np.concatenate(blocks or [np.empty(0, np.float32)])
            if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED") and self.content.nbytes >= LARGE_BYTES:
                self._mapped.madvise(mmap.MADV_DONTNEED)  # the pages would count as this process's memory
        possible = np.abs(scores) <= _MAXIMUM
        if not possible.all() and np.isfinite(query).all():
            raise ValueError(f"the vector {slots[possible.argmin()]} of {len(self):,} is not of unit length")
        best = best_scores(scores, count)
        return slots[best], scores[best]

    def _shortlist(
        self, codes: TurboQuantIndex, query: Float[np.ndarray, " D"], count: int, allowed: Int[np.ndarray, " A"] | None
    ) -> Int[np.ndarray, " K"]:
        """Return, in order, the slots whose compressed vectors are most similar, and those without compressed ones."""
        coded, mask = len(codes), None
        rest = np.arange(coded, len(self)) if allowed is None else allowed[allowed >= coded]
        if allowed is not None:
            mask = np.zeros(coded, bool)
            mask[allowed[allowed < coded]] = True
        _, slots = codes.search(np.ascontiguousarray(query[None], np.float32), max(SHORTLIST, count), mask=mask)
        return np.concatenate([np.sort(slots[0, :count]).astype(np.int64), rest])

    @cached_property
    def codes(self) -> TurboQuantIndex | None:
        """The compressed vectors; None if there are none, or they cannot be read."""
        if self._codes_path is None:
            return None
        try:
            os.close(open_regular(self._codes_path, writable=False))
            codes = _quantizer().load(str(self._codes_path))
            return codes if len(codes) <= len(self) and codes.dim == self.content.shape[1] else None
        except Exception as error:  # the library is missing or another version, or the file is damaged
            logger.warning("compressed vectors cannot be read, so searches compare every row: %s", one_line(error))
            return None


def append_vectors(path: Path, slots: int, vectors: Float[np.ndarray, "N D"]) -> None:
    """Write vectors after the first `slots`, in place of what a killed process left; they are on disk afterwards.

    Raises OSError; ValueError if the file is shorter; OutputError if it is a link.
    """
    size = slots * vectors.shape[1] * 4
    with open(open_regular(path), "r+b") as file:
        if file.seek(0, os.SEEK_END) < size:
            raise ValueError(f"{path.name} has less than {size:,} bytes")
        file.truncate(size)
        file.seek(size)
        file.write(np.ascontiguousarray(vectors, "<f4").data)
        file.flush()
        os.fsync(file.fileno())


def write_codes(store: Path, generation: int, vectors: Vectors) -> bool:
    """Write or extend the compressed vectors of a large index, unless they are good; return whether it did.

    Without them, searches compare every row.
    """
    path, content = codes_path(store, generation), vectors.content
    if content.nbytes < LARGE_BYTES or content.shape[1] % 8:
        existed = path.exists()
        remove(path)
        return existed
    codes = vectors.codes
    if codes is not None and content[len(codes) :].nbytes <= _UNCODED_BYTES:
        return False
    try:
        if codes is None:
            codes = _quantizer()(dim=content.shape[1], bit_width=4)
            codes.calibrate(np.ascontiguousarray(content[:: max(1, len(content) // _SAMPLED)]))
        for start in range(len(codes), len(content), _BLOCK):
            codes.add(np.ascontiguousarray(content[start : start + _BLOCK]))
        with replacing(path) as temporary:
            codes.write(str(temporary))
        return True
    except Exception as error:  # as above, or a full disk
        remove(path)
        logger.warning("vectors cannot be compressed, so searches compare every row: %s", one_line(error))
        return False


def _quantizer() -> type[TurboQuantIndex]:
    with needs_extra("search", "turbovec"):
        from turbovec import TurboQuantIndex
    return TurboQuantIndex
