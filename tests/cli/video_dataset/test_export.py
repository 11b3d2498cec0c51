"""`pe video-dataset export`: tars, or JSON by the name of the output."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.video_dataset.outcomes import write_outcomes


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


def test_tables_choose_and_add(run_pe, annotated: Path, tmp_path: Path) -> None:
    write_outcomes(tmp_path / "s.csv", [{"key": "train/v1", "rank": 0}])
    write_outcomes(tmp_path / "c.csv", [{"key": "train/v1", "category": "Animals"}])
    write_outcomes(tmp_path / "i.parquet", [{"key": "train/v1", "score": 3.5}])
    tables = ("--selection", tmp_path / "s.csv", "--categories", tmp_path / "c.csv", "--scores", tmp_path / "i.parquet")
    run = run_pe("video-dataset", "export", annotated, "-o", tmp_path / "out", *tables)
    assert run.status == 0 and "1 videos, 0 with refined captions" in run.stdout, run.stderr
    (record,) = read_videos_of(tmp_path / "out")
    assert (record.key, record.category, record.metadata["interest_score"]) == ("v1", "Animals", 3.5)
