"""`pe video-dataset export`: tars, or JSON by the name of the output."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.datasets.pe_video import read_videos_of


def test_tars(run_pe, annotated: Path, tmp_path: Path) -> None:
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "out")
    assert run.status == 0 and "3 videos, 1 with refined captions" in run.stdout
    assert [record.refined_caption for record in read_videos_of(tmp_path / "out")] == ["A boat.", "", ""]
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "few", "--refined-only")
    assert "1 videos, 1 with refined captions" in run.stdout
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "few")
    assert run.status == 2 and "is not empty" in run.stderr


def test_label_studio(run_pe, annotated: Path, tmp_path: Path) -> None:
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "l.json", "--video-prefix", "/files/")
    assert run.status == 0 and '<Video name="video" value="$video"/>' in run.stdout
    assert json.loads((tmp_path / "l.json").read_text())[0]["data"]["video"] == "/files/v0.mp4"
