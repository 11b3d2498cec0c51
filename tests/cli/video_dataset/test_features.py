"""`pe video-dataset features`: a file for each tar, and bad videos on stderr."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.features import read_features
from tests.video_dataset.clips import small_dataset


def test_features_of_the_built_in_model(run_pe, tmp_path: Path) -> None:
    data, out = small_dataset(tmp_path / "clips", 2), tmp_path / "features"
    run = run_pe("video-dataset", "features", data, "-o", out, "-m", "builtin")
    assert run.status == 0 and "features of 2 videos" in run.stdout, run.stderr
    table = read_features(out)
    assert table.keys == ("train/v0", "train/v1") and table.names[:2] == ("motion_rate", "motion_frames")
    write_members(data / "train" / "1.tar", [("bad.mp4", b"none" * 100), ("bad.json", json_bytes({}))])
    run = run_pe("video-dataset", "features", data, "-o", out, "-m", "builtin", "--strict")
    assert run.status == 1 and "bad" in run.stderr and "1 of 3 inputs skipped" in run.stderr


def test_an_unknown_language_model(run_pe, tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "clips", 1)
    run = run_pe("video-dataset", "features", data, "-o", tmp_path / "f", "-m", "builtin", "--ask-model", "nobody")
    assert run.status == 2 and "no language model is called 'nobody'" in run.stderr
