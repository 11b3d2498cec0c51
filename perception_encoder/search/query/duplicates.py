"""Group images and moments that are nearly the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import ConfigError
from perception_encoder.search.index.index import Index
from perception_encoder.search.query.galleries import hit_of
from perception_encoder.search.query.search import Hit

SIMILAR = 0.97
"""Cosine similarity from which two images are near-duplicates."""
_BLOCK = 1 << 24  # similarities in memory at a time


def group_duplicates(vectors: Float[np.ndarray, "N D"], similar: float = SIMILAR) -> list[list[int]]:
    """Group rows (unit vectors) linked by a similarity of at least `similar`: largest group first, rows in order.

    Rows without a near-duplicate are in no group. Exact: every pair is compared.
    """
    group_of = np.arange(len(vectors))  # each row's group, by the least row in it
    step = max(1, _BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        linked = vectors[start : start + step] @ vectors[start:].T >= similar
        for links in linked[linked.sum(axis=1) > 1]:
            merged_groups = np.unique(group_of[start:][links])
            if len(merged_groups) > 1:
                group_of[np.isin(group_of, merged_groups)] = merged_groups[0]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(row)
    return sorted((rows for rows in groups.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))


def all_but_largest(group: Sequence[Hit]) -> list[Hit]:
    """Return the images of a group without the one that has the most pixels, of equal ones the largest file.

    Moments of videos are left out: that they look alike does not make their videos duplicates.
    """
    images = [hit for hit in group if hit.row is not None and hit.row.kind == "image"]
    kept = max(images, key=lambda hit: (hit.row.width * hit.row.height, hit.row.size) if hit.row else (), default=None)
    return [hit for hit in images if hit is not kept]


def find_duplicates(
    indexes: Sequence[Index], where: str | None = None, thumbnails: bool = False, similar: float = SIMILAR
) -> list[list[Hit]]:
    """Group near-duplicates in some indexes, by similarity to the first of each group; SearchIndexError as `check`.

    `where`: a condition in SQL. `similar`: see `group_duplicates`. ConfigError if either is invalid.
    """
    if not 0 < similar <= 1:
        raise ConfigError(f"the threshold is {similar:g}; a cosine similarity must be above 0 and at most 1")
    for other in indexes[1:]:
        other.check(indexes[0].settings)
    rows = [(index, row) for index in indexes for row in index.rows(where, thumbnails)]
    if not rows:
        return []
    groups = []
    for group in group_duplicates(np.stack([row.vector for _, row in rows]), similar):
        first = rows[group[0]][1].vector
        hits = [hit_of(index, row, float(row.vector @ first)) for index, row in (rows[number] for number in group)]
        groups.append(sorted(hits, key=lambda hit: -hit.score))
    return groups
