"""Progress bars: what they show on a terminal, and that they show nothing elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from perception_encoder.cli import output
from perception_encoder.cli.progress import live_line, progress, track


def test_progress_is_silent_where_stderr_is_no_terminal(capsys) -> None:
    with progress("embedding", total=2) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_count_and_rate_on_a_terminal(monkeypatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "error_console", Console(file=screen, force_terminal=True, width=100))
    with progress("embedding", total=40) as advance:
        advance(40)
    screen_text = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    assert re.search(r"embedding .* 40/40 [\d.]+ items/s", screen_text)


def test_tracked_items_come_through_unchanged(capsys) -> None:
    assert list(track(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_report_of_the_loop_is_one_line_with_the_time_that_is_left() -> None:
    row = {"step": 20, "contrastive": 4.2, "samples_per_second": 131.5, "mfu": 0.41, "lr": 0.003, "logit_scale": 14.3}
    line = live_line(row | {"seconds_left": 2 * 3600 + 5 * 60 + 59})
    assert line == "step 20  contrastive 4.2  samples/s 131.5  MFU 0.41  lr 0.003  logit_scale 14.3  2:05 h left"
    assert live_line({"step": 1}) == "step 1"
