"""Ranks share work without gap or overlap."""

from __future__ import annotations

import pytest

from perception_encoder.ranks import ALONE, Rank


@pytest.mark.parametrize("count", [0, 1, 7, 12, 100])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shares_cover_everything_once(count: int, of: int) -> None:
    items = list(range(count))
    parts = [items[Rank(number=number, of=of).share(count)] for number in range(of)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [items[share] for share in Rank(of=of).all_shares(count)] == parts


def test_alone_is_everything() -> None:
    assert ALONE.share(5) == slice(0, 5)
