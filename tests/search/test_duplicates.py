"""Near-duplicates: against groups found pair by pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.search import ranking as duplicates
from perception_encoder.search.ranking import find_duplicates, group_duplicates
from tests.search.indexes import make_index


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


def test_duplicates_are_found_within_and_across_indexes(
    tmp_path: Path, checkpoint: Path, draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = lambda vectors, *rest: group_duplicates(vectors, 0.9999)  # noqa: E731  (a random model finds all alike)
    monkeypatch.setattr(duplicates, "group_duplicates", exact)
    indexes = []
    for directory, numbers in (("one", (1, 1, 2)), ("two", (1, 3))):
        (tmp_path / directory).mkdir()
        for at, number in enumerate(numbers):
            draw(40 * number).save(tmp_path / directory / f"{at}.png")
        indexes.append(make_index(tmp_path / directory, checkpoint))
    (group,) = find_duplicates(indexes)
    assert {hit.item.source for hit in group} == {tmp_path / name for name in ("one/0.png", "one/1.png", "two/0.png")}
    assert [hit.score for hit in group] == pytest.approx([1, 1, 1], abs=1e-2)
    (alone,) = find_duplicates(indexes[:1])
    assert len(alone) == 2 and all(hit.row.thumbnail == b"" for hit in alone)
    assert all(hit.row.thumbnail for hit in find_duplicates(indexes[:1], thumbnails=True)[0])
    assert find_duplicates(indexes, "path = '0.png'")[0] and find_duplicates(indexes, "path = '1.png'") == []
    assert find_duplicates(indexes, "path = 'none'") == []
