"""Near-duplicates: against groups found pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.search.query import duplicates
from perception_encoder.search.query.duplicates import group_duplicates


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(vectors: np.ndarray, alike: float) -> set[frozenset[int]]:
    groups = [{row} for row in range(len(vectors))]
    for row in range(len(vectors)):
        for other in range(row):
            if vectors[row] @ vectors[other] >= alike:
                ours, theirs = (next(group for group in groups if each in group) for each in (row, other))
                if ours is not theirs:
                    ours |= theirs
                    groups.remove(theirs)
    return {frozenset(group) for group in groups if len(group) > 1}


@pytest.mark.parametrize("block", [1, 300, 1 << 24])
def test_groups_are_those_found_pair_by_pair(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    vectors = unit(np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32))
    groups = group_duplicates(vectors, 0.995)
    assert set(map(frozenset, groups)) == by_hand(vectors, 0.995)
    assert len(groups) > 5
    assert groups == sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group[0]))


def test_unlike_rows_are_in_no_group() -> None:
    assert group_duplicates(np.eye(4, dtype=np.float32)) == []
    assert group_duplicates(np.empty((0, 4), np.float32)) == []
