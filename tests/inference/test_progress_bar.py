"""A bar on terminals only."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from perception_encoder.inference.progress_bar import progress_bar


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
