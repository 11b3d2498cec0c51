"""Pictures and moments that are nearly the same, in groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from perception_encoder.search.index.index import Index
from perception_encoder.search.query.hits import Hit, item_of

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


def find_duplicates(indexes: Sequence[Index], where: str | None = None, thumbnails: bool = False) -> list[list[Hit]]:
    """Groups of near-duplicates in some indexes, by likeness to the first of each group; SearchIndexError as `check`.

    `where`: a condition in SQL; ConfigError where it is none.
    """
    for other in indexes[1:]:
        other.check(indexes[0].settings)
    found = [(index, row) for index in indexes for row in index.rows(where, thumbnails)]
    if not found:
        return []
    groups = []
    for group in group_duplicates(np.stack([row.vector for _, row in found])):
        first = found[group[0]][1].vector
        alike = [
            Hit(item=item_of(index, row), score=float(row.vector @ first), time=row.time, row=row)
            for index, row in (found[number] for number in group)
        ]
        groups.append(sorted(alike, key=lambda hit: -hit.score))
    return groups
