"""The reader of the PE Video Dataset's layout: published and rendered fields, splits, the benchmark, and damage."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from perception_encoder.datasets.captioned import load_benchmark, load_captions
from perception_encoder.datasets.pe_video import list_video_tars, read_videos_of
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.evaluation.inputs import open_item
from perception_encoder.formats.shards import json_bytes, write_members
from tests.clips import number_of
from tests.video_dataset.clips import fields, short_clip, write_dataset


@pytest.fixture
def published(tmp_path: Path) -> Path:
    test = [
        ("a", fields("model a", human_caption="person a")),
        ("b", fields("model b", human_caption=None)),
        ("c", fields("model c", human_caption="person c")),
    ]
    splits = {"test": [test], "train": [[("d", fields("model d"))], [("e", fields("model e"))]]}
    extended = {"keywords": ["dog"], "description": "a dog", "fps": "fast", "video_duration_in_s": True}
    return write_dataset(tmp_path / "PE-Video", {**splits, "extended": [[("f", extended)]]})


def test_every_split_is_read_in_order(published: Path) -> None:
    records = list(read_videos_of(published))
    assert [(record.split, record.key) for record in records] == [
        *(("train", "d"), ("train", "e"), ("test", "a"), ("test", "b"), ("test", "c"), ("extended", "f")),
    ]
    first = records[2]
    assert first.video.read("v") == short_clip()
    assert (first.model_caption, first.refined_caption, first.refined_by) == ("model a", "person a", "human")
    assert (first.category, first.duration, first.frame_rate) == ("Water Scenes", 2.0, 10.0)
    assert records[3].refined_caption == records[3].refined_by == records[5].model_caption == ""
    assert records[5].duration is records[5].frame_rate is None and records[5].metadata["keywords"] == ["dog"]


def test_one_split_or_one_tar(published: Path) -> None:
    assert [record.key for record in read_videos_of(published, "train")] == ["d", "e"]
    assert [(r.split, r.key) for r in read_videos_of(published / "train" / "000001.tar")] == [("train", "e")]
    assert [(r.split, r.key) for r in read_videos_of(published / "train")] == [("train", "d"), ("train", "e")]
    with pytest.raises(DataError, match="no split 'val'"):
        list(read_videos_of(published, "val"))


def test_the_benchmark_is_the_refined_captions_of_test(published: Path) -> None:
    data = load_benchmark(published)
    assert load_captions(published) == data
    assert data.keys == ("a", "c") and data.captions == (("person a",), ("person c",))
    frames = open_item(data.media[1], "c", 2)
    assert [number_of(image) for image in frames] == [0, 19]
    with pytest.raises(DataError, match="0 videos of train"):
        load_benchmark(published, "train")


def test_rendered_scenes_have_other_names_and_members(tmp_path: Path) -> None:
    metadata = {"category": "Object Interactions", "duration": 3.0, "rate": 8, "model_caption": " It falls. "}
    simulated = {"refined_caption": "It rolls.", "refined_by": "simulated", "human_caption": None}
    members = [
        ("s.mp4", short_clip()),
        ("s.depth.png", b"depth"),
        ("s.mask.png", b"mask"),
        ("s.json", json_bytes({**metadata, **simulated})),
    ]
    write_members(tmp_path / "val" / "00000.tar", members)
    (record,) = read_videos_of(tmp_path)
    assert (record.split, record.category, record.duration, record.frame_rate) == ("val", "Object Interactions", 3, 8)
    assert (record.model_caption, record.refined_caption, record.refined_by) == ("It falls.", "It rolls.", "simulated")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.mp4", b"x")], "1 samples lack a video or a .json; the first is a"),
        ([("a.json", b"{}")], "1 samples lack a video or a .json; the first is a"),
        ([("a.mp4", b"x"), ("a.json", b"[]")], "a.json is not a JSON object"),
        ([("a.mp4", b"x"), ("a.json", b"{")], "a.json is not JSON"),
    ],
)
def test_incomplete_samples_are_errors(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    write_members(tmp_path / "train" / "0.tar", members)
    with pytest.raises(DataError, match=message) as error:
        list(read_videos_of(tmp_path))
    assert str(error.value).count("0.tar") == 1


def test_a_video_that_is_a_link_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "b.mp4"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"a\.mp4 is a link to b\.mp4"):
        list(read_videos_of(tmp_path))


def test_a_damaged_tar_and_no_tars(published: Path, tmp_path: Path) -> None:
    tar = published / "train" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"000000\.tar: not a readable tar"):
        list(read_videos_of(published))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        list_video_tars(tmp_path / "empty")


def test_a_tar_that_becomes_shorter_is_noticed(published: Path) -> None:
    (record,) = read_videos_of(published / "train" / "000000.tar")
    record.video.tar.write_bytes(b"x")
    with pytest.raises(MediaDecodeError, match="v: is cut off"):
        record.video.read("v")
