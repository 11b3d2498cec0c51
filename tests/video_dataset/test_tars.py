"""Datasets in the published layout: what is written is read again, split by split, with the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import OutputError
from perception_encoder.video_dataset.tars import (
    TEXT_FIELDS,
    OutputVideo,
    describe_record,
    refined_fields,
    table_key,
    write_dataset,
)
from tests.data.webdatasets import load_webdataset
from tests.video_dataset.clips import short_clip, small_dataset


def test_splits_and_tars(tmp_path: Path) -> None:
    records = list(read_videos_of(small_dataset(tmp_path / "in", 5)))
    videos = [
        OutputVideo.of(record, {"keywords": ["x"]}, "test" if n > 2 else "train") for n, record in enumerate(records)
    ]
    assert write_dataset(tmp_path / "out", videos, per_tar=2) == {"train": 3, "test": 2}
    names = [path.relative_to(tmp_path / "out").as_posix() for path in sorted((tmp_path / "out").rglob("*.tar"))]
    assert names == ["test/000000.tar", "train/000000.tar", "train/000001.tar"]
    again = list(read_videos_of(tmp_path / "out"))
    assert [(record.split, record.key) for record in again] == [
        *(("train", "v0"), ("train", "v1"), ("train", "v2"), ("test", "v3"), ("test", "v4")),
    ]
    assert again[4].video.read("v4") == short_clip()
    assert again[0].metadata == {**dict.fromkeys(TEXT_FIELDS, ""), "keywords": ["x"]}
    write_dataset(tmp_path / "twice", videos, per_tar=2)
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "twice" / n).read_bytes() for n in names)
    with pytest.raises(OutputError, match="is not empty"):
        write_dataset(tmp_path / "out", videos)


def test_datasets_loads_what_later_videos_alone_have(tmp_path: Path) -> None:
    (record,) = read_videos_of(small_dataset(tmp_path / "in", 1))
    bare = {"human_caption": None, "keywords": [], "fps": None}
    described = {"human_caption": "A boat.", "keywords": ["x"], "fps": 10.0, "category": "water", "refined_by": "human"}
    metadata = [bare] * 8 + [described]
    videos = [
        OutputVideo(f"v{n}", "mp4", lambda: record.video.read("v"), each, split)
        for split in ("train", "test")
        for n, each in enumerate(metadata)
    ]
    write_dataset(tmp_path / "out", videos)
    for split in ("train", "test"):
        rows = load_webdataset(tmp_path / "out" / split, tmp_path)
        assert [row["human_caption"] for row in rows] == [*[""] * 8, "A boat."]
        assert (rows[-1]["category"], rows[-1]["refined_by"], rows[0]["category"]) == ("water", "human", "")


def test_a_record_as_a_row(tmp_path: Path) -> None:
    (record,) = read_videos_of(small_dataset(tmp_path, 1))
    row = describe_record(record)
    assert row["key"] == table_key(record) == "train/v0" and row["tar"].endswith("train/000000.tar")
    with open(row["tar"], "rb") as tar:
        tar.seek(row["offset"])
        assert tar.read(row["size"]) == short_clip()
    assert (row["seconds"], row["frame_rate"], row["category"], row["refined_by"]) == (2, 10, "Water Scenes", "")


def test_only_a_person_writes_a_human_caption(tmp_path: Path) -> None:
    (record,) = read_videos_of(small_dataset(tmp_path, 1))
    human, simulated = (refined_fields(record.metadata, "A boat.", origin) for origin in ("human", "simulated"))
    assert (human["human_caption"], human["refined_by"], "refined_caption" in human) == ("A boat.", "human", False)
    assert (simulated["human_caption"], simulated["refined_caption"]) == ("", "A boat.")
    assert (
        simulated["refined_by"] == "simulated"
        and simulated["model_caption"] == human["model_caption"] == record.model_caption
    )
