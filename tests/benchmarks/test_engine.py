"""Decoding is measured in every way, and the page has a row for each way and each stage."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine import SIDES, WAYS, measure_decoding, page
from perception_encoder.video_data_engine.record import PROBE, StageResult
from perception_encoder.video_data_engine.report import EngineReport
from tests.clips import clip


def test_every_way_counts_its_frames_and_has_a_row(tmp_path: Path) -> None:
    clips = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in clips:
        path.write_bytes(clip(60))
    rows = measure_decoding(clips, 1, [1])
    assert [row["decoded"] for row in rows] == [16] * len(SIDES) + [120] * len(SIDES)
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
    report = EngineReport(2)
    report.add(StageResult(key="a", stage=PROBE, value={}, seconds=3.0))
    about = {"command": "x", "machine": "y", "cores": 2, "load": 3.0, "clips": 2, "seconds": 4.8}
    text = page({**about, "decoding": rows, "engine": {**report.to_json(), "total_seconds": 30.0}})
    assert "4.0 videos a minute" in text and "| `probe` | 1 | 3.0 | 100% |" in text
    assert all(f"| {way} | {size} | 1 |" in text for way in WAYS for size in SIDES)
