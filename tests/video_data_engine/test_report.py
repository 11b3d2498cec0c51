"""Counts, shares and speeds of a run."""

from __future__ import annotations

import pytest

from perception_encoder.video_data_engine.record import FRAMES, PROBE, StageFailure, StageResult
from perception_encoder.video_data_engine.report import EngineReport


def test_shares_and_speeds() -> None:
    report = EngineReport(3)
    assert (report.videos_per_minute, report.frames_per_second) == (0, 0)
    report.add(StageResult(key="a", stage=PROBE, value={}, seconds=1.0))
    report.add(StageResult(key="a", stage=FRAMES, value={}, seconds=3.0, frames=(b"",) * 6))
    report.add(StageFailure(key="b", stage=PROBE, source="b", reason="is empty", cause="video"))
    probe, frames, *others = report.rows()
    assert (probe.done, probe.failed, probe.share) == (1, 1, 0.25) and frames.share == 0.75
    assert sum(row.done for row in others) == 0 and report.frames_per_second == 2
    report.wall = 30.0
    assert report.videos_per_minute == pytest.approx(2)
    assert report.to_json()["stages"][0] == {"stage": "probe", "done": 1, "failed": 1, "seconds": 1.0, "share": 0.25}
    for key in ("c", "d"):
        report.add(StageResult(key=key, stage=PROBE, value={}))
    report.wall = 30.0
    assert report.videos_per_minute == pytest.approx(6)  # three in half a minute
