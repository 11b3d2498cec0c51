"""`pe video-dataset select`: a table of the chosen videos."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.video_dataset.outcomes import read_outcomes
from tests.cli.video_dataset.selecting import write_features


def test_a_selection(run_pe, tmp_path: Path) -> None:
    features, out = write_features(tmp_path / "features"), tmp_path / "selection.csv"
    run = run_pe("video-dataset", "select", features, "--scores", tmp_path / "hand.csv", "--count", "6", "-o", out)
    assert run.status == 0 and "6 of 30 videos selected" in run.stdout, run.stderr
    rows = read_outcomes(out, "cluster", "rank", "score")
    assert len(rows) == 6 and {row["rank"] for row in rows.values()} <= {"0", "1"}


def test_more_than_there_are(run_pe, tmp_path: Path) -> None:
    features = write_features(tmp_path / "features")
    options = ("--scores", tmp_path / "hand.csv", "--count", "31", "-o", tmp_path / "a.csv")
    run = run_pe("video-dataset", "select", features, *options)
    assert run.status == 2 and "31 videos to select; there are 30" in run.stderr
