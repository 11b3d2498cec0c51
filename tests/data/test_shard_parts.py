"""A source in two parts, shard by shard: together they are all of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perception_encoder.data.shard_parts import SourcePart


@dataclass
class Numbers:
    """A source whose samples are their own indices."""

    sizes: list[int]

    def load(self, index: int, needed: object) -> int:
        assert 0 <= index < sum(self.sizes)
        return index


@pytest.mark.parametrize("sizes", [[12], [1, 7, 2, 3], [6, 6]])
@pytest.mark.parametrize("every", [2, 3, 20])
def test_every_nth_sample_of_each_shard_and_all_others(sizes: list[int], every: int) -> None:
    chosen, others = (SourcePart(Numbers(sizes), every, chosen=chosen) for chosen in (True, False))
    first, second = ([part.load(index, min) for index in range(sum(part.sizes))] for part in (chosen, others))
    assert sorted([*first, *second]) == list(range(sum(sizes))) and second == sorted(second)
    starts = [sum(sizes[:shard]) for shard in range(len(sizes))]
    expected = [start + row for start, size in zip(starts, sizes, strict=True) for row in range(every - 1, size, every)]
    assert first == expected and chosen.sizes == [size // every for size in sizes]
