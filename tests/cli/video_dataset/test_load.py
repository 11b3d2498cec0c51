"""`pe video-dataset load`: a row for each video."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.formats.tables import read_table
from tests.video_dataset.clips import fields, write_dataset


def test_a_table_of_a_split(run_pe, tmp_path: Path) -> None:
    splits = {"train": [[("a", fields("model a"))]], "test": [[("b", fields("model b", human_caption="person b"))]]}
    data = write_dataset(tmp_path / "data", splits)
    run = run_pe("video-dataset", "load", data, "-o", tmp_path / "v.parquet")
    assert run.status == 0 and "2 videos" in run.stdout, run.stderr
    rows = read_table(tmp_path / "v.parquet")
    assert [row["key"] for row in rows] == ["train/a", "test/b"] and rows[1]["refined_by"] == "human"
    assert run_pe("video-dataset", "load", data, "--split", "test", "-o", tmp_path / "v.csv").status == 0
    assert [row["refined_caption"] for row in read_table(tmp_path / "v.csv")] == ["person b"]
    run = run_pe("video-dataset", "load", data, "--split", "val", "-o", tmp_path / "v.csv")
    assert run.status == 2 and "has no split 'val'" in run.stderr
