"""Progress bars: what they show on a terminal, and that they show nothing elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from perception_encoder.cli import output
from perception_encoder.cli.progress import progress, track


def test_progress_is_silent_where_stderr_is_no_terminal(capsys) -> None:
    with progress("embedding", total=2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_count_and_rate_on_a_terminal(monkeypatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "error_console", Console(file=screen, force_terminal=True, width=100))
    with progress("embedding", total=40) as advance:
        advance(40)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert re.search(r"embedding .* 40/40 [\d.]+ items/s", shown)


def test_tracked_items_come_through_unchanged(capsys) -> None:
    assert list(track(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
