"""The live table of the stages."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from perception_encoder.cli import output
from perception_encoder.cli.engine import live_table, speed_line, stage_cells
from perception_encoder.video_data_engine.record import PROBE, StageResult
from perception_encoder.video_data_engine.report import EngineReport


def report() -> EngineReport:
    report = EngineReport(4)
    report.add(StageResult(key="a", stage=PROBE, value={}, seconds=2.0))
    report.wall, report.skipped = 30.0, 1
    return report


def test_cells_and_speed() -> None:
    assert stage_cells(report())[0] == ["probe", "1", "0", "2.0", "100%"]
    assert speed_line(report()).startswith("1 of 3 videos, 0 clips finished, 2.0 videos/min")


def test_the_table_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=is_terminal, color_system=None, width=120)
        monkeypatch.setattr(output, "error_console", console)
        with live_table() as show:
            show(report())
        assert ("frame_captions" in stream.getvalue() and "2.0 videos/min" in stream.getvalue()) == is_terminal
