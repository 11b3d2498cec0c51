"""Decoding is measured in every way."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine import SIDES, measure_decoding
from tests.clips import clip


def test_every_way_counts_its_frames(tmp_path: Path) -> None:
    clips = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for path in clips:
        path.write_bytes(clip(60))
    rows = measure_decoding(clips, 1, [1])
    assert [row["decoded"] for row in rows] == [16] * len(SIDES) + [120] * len(SIDES)
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows)
