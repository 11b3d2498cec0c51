"""Exact search in memory: compare a query with every vector."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import ShapeError


def best_rows(
    query: Float[np.ndarray, " D"], gallery: Float[np.ndarray, "N D"], top: int
) -> tuple[Float[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Return the `top` best dot products (cosine similarities of unit vectors) and their rows, best first, NaN last.

    K = min(top, N). Equal scores keep the gallery's order. Raises ShapeError if the dimensions differ, as those of two
    models do.
    """
    if len(query) != gallery.shape[1]:
        raise ShapeError(
            f"the query has {len(query)} dimensions, the gallery has {gallery.shape[1]}; encode both by one model"
        )
    scores = gallery @ query  # (N,)
    rows = np.arange(len(scores))
    if top < len(scores):  # only the best are sorted
        rows = np.flatnonzero(~(-scores > np.partition(-scores, top - 1)[top - 1]))
    rows = rows[np.argsort(-scores[rows], kind="stable")[:top]]
    return scores[rows], rows
