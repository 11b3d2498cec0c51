"""Retrieval: how often a query's nearest item is its own, with and without dual softmax (section 2.5)."""

from __future__ import annotations

import numpy as np


def dual_softmax(scores: np.ndarray) -> np.ndarray:
    """`scores * softmax(scores, axis=0)`: rows are the queries, so an item that many queries like counts less.

    It looks at all queries at once; figures with it are reported apart.
    """
    powers = np.exp(scores - scores.max(axis=0, keepdims=True))
    return scores * (powers / powers.sum(axis=0, keepdims=True))


def found_first(scores: np.ndarray) -> np.ndarray:
    """Whether query i ranks item i first: (n, n) similarities to bool (n,)."""
    return scores.argmax(axis=1) == np.arange(len(scores))
