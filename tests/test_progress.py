"""Work that nobody follows."""

from __future__ import annotations

from perception_encoder.progress import Track, untracked


def test_items_come_unchanged_and_one_by_one() -> None:
    track: Track = untracked
    items = iter(range(3))
    tracked = iter(track(items, "counting", 3))
    assert next(tracked) == 0 and next(items) == 1  # nothing is read ahead
    assert list(tracked) == [2]
