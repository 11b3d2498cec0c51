"""`pe video-dataset score`: the table, and the error out of bag."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.video_dataset.outcomes import read_outcomes
from tests.cli.video_dataset.selecting import write_features


def test_scores_and_report(run_pe, tmp_path: Path) -> None:
    features, out = write_features(tmp_path / "features"), tmp_path / "scores.csv"
    run = run_pe("video-dataset", "score", features, "--hand", tmp_path / "hand.csv", "-o", out)
    assert run.status == 0 and "30 videos scored; out of bag on 30 hand scores: mean error" in run.stdout, run.stderr
    assert "motion_rate\t" in run.stdout and len(read_outcomes(out, "score")) == 30
    run = run_pe("video-dataset", "score", features, "--hand", tmp_path / "hand.csv", "-o", out, "--json")
    assert json.loads(run.stdout)["videos"] == 30


def test_a_bad_output_is_noticed_first(run_pe, tmp_path: Path) -> None:
    run = run_pe("video-dataset", "score", tmp_path, "--hand", tmp_path / "hand.csv", "-o", tmp_path / "scores")
    assert run.status == 2 and "ends in .parquet, .csv or .jsonl" in run.stderr
