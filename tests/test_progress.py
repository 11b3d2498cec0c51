"""Progress is shown on terminals only, and items pass unchanged."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from perception_encoder.progress import Track, progress_bar, untracked


def test_items_come_unchanged_and_one_by_one() -> None:
    track: Track = untracked
    items = iter(range(3))
    tracked = iter(track(items, "counting", 3))
    assert next(tracked) == 0 and next(items) == 1  # nothing is read ahead
    assert list(tracked) == [2]


@pytest.mark.parametrize(("terminal", "total", "count"), [(True, 5, "5/5"), (True, None, "5/?"), (False, 5, None)])
def test_the_bar_counts_items(terminal: bool, total: int | None, count: str | None) -> None:
    screen = io.StringIO()
    with progress_bar("reading", total, Console(file=screen, force_terminal=terminal, width=100)) as advance:
        advance(2)
        advance(3)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    if count is None:
        assert text == ""
    else:
        assert re.search(rf"reading .* {re.escape(count)} +[\d.]+ items/s", text)
