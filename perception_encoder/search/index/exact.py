"""Exact search in memory: compare every query with every vector."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import ShapeError

_BLOCK_VALUES = 1 << 24
"""Scores in memory at a time: 64 MiB, however many queries there are."""


def best_rows(
    queries: Float[np.ndarray, "Q D"], gallery: Float[np.ndarray, "N D"], top: int
) -> tuple[Float[np.ndarray, "Q K"], Int[np.ndarray, "Q K"]]:
    """Return the `top` best scores of each query and their rows, by dot product (cosine similarity of unit vectors).

    K = min(top, N). Equal scores keep the gallery's order. Raises ShapeError if the dimensions differ, as those of two
    models do.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise ShapeError(
            f"queries have {queries.shape[1]} dimensions, the gallery has {gallery.shape[1]}; encode both by one model"
        )
    count = min(top, len(gallery))
    scores = np.empty((len(queries), count), np.float32)
    rows = np.empty((len(queries), count), np.int64)
    step = max(1, _BLOCK_VALUES // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step] @ gallery.T  # (Q', N)
        best = np.stack([_best(row, count) for row in block])
        rows[start : start + step] = best
        scores[start : start + step] = np.take_along_axis(block, best, axis=1)
    return scores, rows


def _best(scores: Float[np.ndarray, " N"], count: int) -> Int[np.ndarray, " K"]:
    """Return the positions of the `count` best scores, best first, NaN last; only the best are sorted."""
    if count == len(scores):
        return np.argsort(-scores, kind="stable")
    worst = np.partition(-scores, count - 1)[count - 1]
    enough = np.flatnonzero(~(-scores > worst))
    return enough[np.argsort(-scores[enough], kind="stable")[:count]]
