"""Tables of videos, statistics of a dataset, and its tars."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import DataError, OutputError
from perception_encoder.formats.shards import read_members
from perception_encoder.video_dataset import tables
from perception_encoder.video_dataset.dataset import NO_CATEGORY, describe_dataset
from perception_encoder.video_dataset.tables import TEXT_FIELDS, OutputVideo, read_video_table, write_video_table
from tests.data.tars import load_webdataset
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_video_table(path, [{"key": "train/ä", "score": 1.5}, {"key": 'b,"c', "score": 2.0}])
    assert {key: float(row["score"]) for key, row in read_video_table(path).items()} == {"train/ä": 1.5, 'b,"c': 2.0}
    write_video_table(path, [{"key": "a"}, {"key": "a"}])
    with pytest.raises(DataError, match="occurs twice"):
        read_video_table(path)


def test_tables_3_and_16(tmp_path: Path) -> None:
    train = [
        ("a", fields("one two three", human_caption="one two", video_duration_in_s=10.0)),
        ("b", fields("one", refined_caption="a b c d", refined_by="simulated", video_duration_in_s=20.0)),
        ("c", fields("one two", category_name="Animals", video_duration_in_s=None)),
    ]
    test = [("d", fields("x", human_caption="a dog", category_name="Animals"))]
    test += [("e", fields("x", human_caption="a", category_name=None, category=None))]
    statistics = describe_dataset(read_videos_of(write_dataset(tmp_path, {"train": [train], "test": [test]})))
    assert list(statistics.splits) == ["train", "test", "all"]
    table = statistics.splits["train"]
    assert (table.videos, table.refined, table.simulated) == (3, 2, 1)
    assert (table.seconds.mean, table.seconds.deviation, table.seconds.count) == (15, 5, 2)
    assert table.hours == pytest.approx(30 / 3600)
    assert (table.model_words.mean, table.refined_words.mean, table.refined_words.deviation) == (2, 3, 1)
    assert statistics.splits["all"].videos == 5 and statistics.splits["test"].simulated == 0
    rows = {split: [tuple(vars(row).values()) for row in category] for split, category in statistics.categories.items()}
    assert rows["all"] == [("Water Scenes", 2, 3), ("Animals", 1, 2), (NO_CATEGORY, 1, 1)]
    assert rows["test"] == [("Animals", 1, 2), (NO_CATEGORY, 1, 1)]  # table 16: its videos sum to 15,000
    assert rows["train"] == [("Water Scenes", 2, 3)]


def test_splits_and_tars(tmp_path: Path) -> None:
    records = list(read_videos_of(small_dataset(tmp_path / "in", 5)))
    videos = [
        OutputVideo.of(record, {"keywords": ["x"]}, "test" if n > 2 else "train") for n, record in enumerate(records)
    ]
    assert tables.write_dataset(tmp_path / "out", videos, per_tar=2) == {"train": 3, "test": 2}
    names = [path.relative_to(tmp_path / "out").as_posix() for path in sorted((tmp_path / "out").rglob("*.tar"))]
    assert names == ["test/000000.tar", "train/000000.tar", "train/000001.tar"]
    again = list(read_videos_of(tmp_path / "out"))
    assert [(record.split, record.key) for record in again] == [
        *(("train", "v0"), ("train", "v1"), ("train", "v2"), ("test", "v3"), ("test", "v4")),
    ]
    assert again[4].video.read("v4") == short_clip()
    assert again[0].metadata == {**dict.fromkeys(TEXT_FIELDS, ""), "keywords": ["x"]}
    tables.write_dataset(tmp_path / "twice", videos, per_tar=2)
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "twice" / n).read_bytes() for n in names)
    with pytest.raises(OutputError, match="is not empty"):
        tables.write_dataset(tmp_path / "out", videos)


def test_training_reads_the_best_caption(tmp_path: Path) -> None:
    captions = {"model_caption": "A film.", "summary": "A film of a boat.", "refined_caption": " ", "human_caption": ""}
    metadata = [captions, {**captions, "human_caption": "A boat."}, {"model_caption": "A film."}, {}]
    videos = [OutputVideo(f"v{n}", "mp4", lambda: b"video", fields, "train") for n, fields in enumerate(metadata)]
    tables.write_dataset(tmp_path / "out", videos)
    texts = [content.decode() for _, content in read_members(tmp_path / "out" / "train" / "000000.tar", ("txt",))]
    assert texts == ["A film of a boat.", "A boat.", "A film.", ""]


def test_datasets_loads_what_later_videos_alone_have(tmp_path: Path) -> None:
    (record,) = read_videos_of(small_dataset(tmp_path / "in", 1))
    bare = {"human_caption": None, "keywords": [], "fps": None}
    described = {"human_caption": "A boat.", "keywords": ["x"], "fps": 10.0, "category": "water", "refined_by": "human"}
    metadata = [bare] * 8 + [described]
    videos = [
        OutputVideo(f"v{n}", "mp4", lambda: record.video.read("v"), item, split)
        for split in ("train", "test")
        for n, item in enumerate(metadata)
    ]
    tables.write_dataset(tmp_path / "out", videos)
    for split in ("train", "test"):
        rows = load_webdataset(tmp_path / "out" / split, tmp_path)
        assert [row["human_caption"] for row in rows] == [*[""] * 8, "A boat."]
        assert (rows[-1]["category"], rows[-1]["refined_by"], rows[0]["category"]) == ("water", "human", "")
