"""Pictures and moments that are nearly the same, in groups."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

ALIKE = 0.97
"""Cosine similarity from which two are near-duplicates."""
_BLOCK = 1 << 24  # similarities held at a time


def group_duplicates(vectors: Float[np.ndarray, "N D"], alike: float = ALIKE) -> list[list[int]]:
    """Groups of rows (unit vectors) linked by a similarity of at least `alike`: largest first, rows in order.

    Rows without a near-duplicate are in no group. Exact: every pair is compared.
    """
    group_of = np.arange(len(vectors))  # each row's group, by the least row in it
    step = max(1, _BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        alike_to = vectors[start : start + step] @ vectors[start:].T >= alike
        for links in alike_to[alike_to.sum(axis=1) > 1]:
            joined = np.unique(group_of[start:][links])
            if len(joined) > 1:
                group_of[np.isin(group_of, joined)] = joined[0]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(row)
    return sorted((rows for rows in groups.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))
