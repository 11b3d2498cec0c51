"""Arrays of embeddings, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from perception_encoder.errors import ShapeError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Vectors: TypeAlias = "np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]"


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (…, D) at length 1; zeros stay zeros."""
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


def are_unit(vectors: Float[np.ndarray, "*n D"]) -> Bool[np.ndarray, "*n"]:
    """Return which vectors are of unit length, as far as numbers in half precision or int8 have it."""
    return np.asarray(abs(np.einsum("...d,...d->...", vectors, vectors) - 1) <= 0.02)


def truncate(rows: np.ndarray, length: int | None, normalize: bool) -> np.ndarray:
    """Return the first `length` numbers of each row (…, D), by default all, at unit length if `normalize`."""
    cut = np.ascontiguousarray(rows[..., :length])
    return unit_rows(cut) if normalize else cut


def label_probabilities(
    cosines: Float[np.ndarray, "n K"], scale: float | None, bias: float | None = None
) -> Float[np.ndarray, "n K"]:
    """Return the probability of each label for each input, as the model was trained.

    The softmax of the cosine similarities times the model's `scale`, by default 20 as in sentence-transformers' losses;
    with a `bias` (SigLIP), the sigmoid of each.
    """
    logits = (scale or 20.0) * cosines
    if bias is not None:
        return 1 / (1 + np.exp(-np.clip(logits + bias, -80, 80)))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def load_array(path: Path) -> np.ndarray:
    """Load a .npy file; OSError or ValueError for any kind of damage."""
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (EOFError, TokenError, SyntaxError, MemoryError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return array


def best_rows(
    query: Float[np.ndarray, " D"], gallery: Float[np.ndarray, "N D"], top: int
) -> tuple[Float[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Return the `top` highest dot products (cosine similarities of unit vectors) and their rows, best first, NaN last.

    K = min(top, N). Equal scores keep the gallery's order. Raises ShapeError if the dimensions differ, as those of two
    models do.
    """
    if len(query) != gallery.shape[1]:
        raise ShapeError(
            f"the query has {len(query)} dimensions, the gallery has {gallery.shape[1]}; use one model for both"
        )
    scores = gallery @ query  # (N,)
    rows = best_scores(scores, top)
    return scores[rows], rows


def best_scores(scores: Float[np.ndarray, " N"], top: int) -> Int[np.ndarray, " K"]:
    """Return where the `top` highest scores are, best first, NaN last; equal scores keep their order."""
    rows = np.arange(len(scores))
    if top < len(scores):  # only the best are sorted
        rows = np.flatnonzero(~(-scores > np.partition(-scores, top - 1)[top - 1]))
    return rows[np.argsort(-scores[rows], kind="stable")[:top]]


def cosine_similarities(a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
    """Return cosine similarities of each row of `a` (n, D) to each of `b` (m, D), or of (D,): float32 (n, m)."""
    return unit_tensor(a) @ unit_tensor(b).T


def unit_tensor(vectors: Vectors) -> Tensor:
    """Return vectors of any container as unit float32 rows (n, D)."""
    import torch
    import torch.nn.functional as F

    if isinstance(vectors, (np.ndarray, torch.Tensor)):
        rows = torch.as_tensor(vectors)
    else:
        rows = torch.stack([torch.as_tensor(vector) for vector in vectors])
    return F.normalize(torch.atleast_2d(rows.float()), dim=-1)
