"""A dataset's tables, statistics and tars; features of its videos, and a varied selection by an interest score."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import DataError, OutputError
from perception_encoder.formats.shards import json_bytes, read_members, write_members
from perception_encoder.video_dataset import tables
from perception_encoder.video_dataset.dataset import NO_CATEGORY, describe_dataset
from perception_encoder.video_dataset.features import MOTION, QUESTIONS, compute_features
from perception_encoder.video_dataset.selection import (
    CATEGORIES,
    categorise_videos,
    read_hand_scores,
    score_videos,
    select_videos,
)
from perception_encoder.video_dataset.tables import TEXT_FIELDS, OutputVideo, read_video_table, write_video_table
from tests.data.tars import load_webdataset
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset
from tests.video_dataset.models import CountingModel, NumberEncoder, table_of


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


def test_motion_frames_and_answers(tmp_path: Path) -> None:
    model = CountingModel()
    table = compute_features(small_dataset(tmp_path / "data", 2), tmp_path / "out", NumberEncoder(), model)
    assert table.keys == ("train/v0", "train/v1") and len(table) == 2 and table.failures == ()
    assert table.values.shape == (2, len(table.names)) == (2, 5 + 11 + 26)
    row = dict(zip(table.names, table.values[0], strict=True))
    assert (row["motion_rate"], row["motion_frames"], row["motion_key_frames"]) == (10, 20, 2)
    assert table.frames[0, :, 0].tolist() == [0, 9, 19]  # the numbers of three uniform frames
    assert row["objects_moving"] > 0 and MOTION[-1] == "objects_area_p100"
    assert np.allclose(table.embeddings[0], np.array([28 / 3, 1]) / np.hypot(28 / 3, 1))
    assert [row[f"answer_{name}"] for name in QUESTIONS] == (np.arange(26) / 100).tolist()
    assert model.conversations[3][0].content[1] == "Is the camera far away from what it films? Answer yes or no."
    assert len(model.conversations) == 2 * 26


def test_only_a_changed_tar_or_another_model_is_computed_again(tmp_path: Path) -> None:
    tars = [[(f"{tar}{n}", fields("x")) for n in range(2)] for tar in "ab"]
    data = write_dataset(tmp_path / "data", {"train": tars})
    whole = compute_features(data, tmp_path / "out", NumberEncoder())
    tar, again = data / "train" / "000001.tar", NumberEncoder()
    for change in (
        lambda: os.link(tar, tmp_path / "link"),
        lambda: tar.chmod(0o600),
        lambda: os.utime(tar, (1e9, 1e9)),
    ):
        change()
        table = compute_features(data, tmp_path / "out", again)
        assert table.keys == whole.keys and again.images == 0 and np.array_equal(table.frames, whole.frames)
    tar.write_bytes(tar.read_bytes().replace(b'"x"', b'"y"'))  # of the same size, and then of the same time
    os.utime(tar, (1e9, 1e9))
    assert compute_features(data, tmp_path / "out", again).keys == whole.keys and again.images == 2 * 3
    other = NumberEncoder()
    other.name = "another model"
    compute_features(data, tmp_path / "out", other)
    assert other.images == 4 * 3  # all anew
    answered = compute_features(data, tmp_path / "out", other, CountingModel())
    assert other.images == 8 * 3 and len(answered.names) == len(whole.names) + 26


def test_tars_of_one_name_are_told_apart(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": [[("inner", fields("x"))]]})
    (data / "train" / "000000.tar").rename(data / "train" / "train.tar")
    other = write_dataset(tmp_path / "other", {"train": [[("outer", fields("x"))]]})
    (other / "train" / "000000.tar").rename(data / "train.tar")
    again = NumberEncoder()
    for _ in range(2):
        assert compute_features(data, tmp_path / "out", again).keys == ("train/outer", "train/inner")
    assert again.images == 2 * 3
    write_dataset(data, {"train": [[("outer", fields("x"))]]})
    with pytest.raises(DataError, match="has 2 videos of the key train/outer"):
        compute_features(data, tmp_path / "out", again)


def test_a_video_that_cannot_be_decoded_is_reported_every_time(tmp_path: Path) -> None:
    small_dataset(tmp_path / "data", 1)
    bad = [("bad.mp4", b"no video" * 100), ("bad.json", json_bytes({}))]
    write_members(tmp_path / "data" / "train" / "000001.tar", bad)
    for _ in range(2):
        table = compute_features(tmp_path / "data", tmp_path / "out", NumberEncoder())
        assert table.keys == ("train/v0",) and "bad" in table.failures[0].source
    with pytest.raises(DataError, match=r"no video of .* can be decoded"):
        compute_features(tmp_path / "data" / "train" / "000001.tar", tmp_path / "out", NumberEncoder())


def data(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which the third decides the score."""
    values = np.random.default_rng(0).normal(size=(count, 10))
    return values, np.clip(2.5 + 1.5 * values[:, 2], 0, 5)


NOISE = np.random.default_rng(7).normal(size=(150, 2))


def test_scores_are_learned() -> None:
    values, truth = data()
    table = table_of(NOISE, values)
    hand = {f"train/{n}": float(truth[n]) for n in range(100)}
    scores, report = score_videos(table, hand)
    assert np.corrcoef(scores[100:], truth[100:])[0, 1] > 0.9
    assert report.videos == 100 and report.rank_correlation > 0.9 and 0.7 < report.explained < 1
    assert report.mean_error < 0.4 * np.abs(truth[:100] - truth[:100].mean()).mean()
    assert next(iter(report.importances)) == "motion_2" and sum(report.importances.values()) == pytest.approx(1)
    assert np.array_equal(score_videos(table, hand)[0], scores)
    assert json.loads(json.dumps(report.to_dict()))["error"] == "out of bag"


def test_too_few_or_unknown_hand_scores() -> None:
    table = table_of(np.ones((30, 2)))
    with pytest.raises(DataError, match="10 hand scores"):
        score_videos(table, {f"train/{n}": 1.0 for n in range(10)})
    with pytest.raises(DataError, match="without features, such as train/99"):
        score_videos(table, {"train/99": 1.0})


@pytest.mark.parametrize("row", ["train/a,6", "train/a,-1", "train/a,good", "train/a,", "train/a,1\ntrain/a,2"])
def test_hand_scores_that_are_none(tmp_path: Path, row: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"key,score\n{row}\n")
    with pytest.raises(DataError, match=r"must be from 0 to 5|occurs twice"):
        read_hand_scores(path)


class AxisEncoder(NumberEncoder):
    """Encodes each category's descriptions near one axis."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        axes = {text: n for n, category in enumerate(CATEGORIES.values()) for text in category}
        rows = [np.eye(10)[axes[text.removeprefix("a video of ")]] for text in texts]
        return np.array(rows, np.float32)


def test_the_nearest_category_is_taken() -> None:
    between = np.eye(10)[6] + np.eye(10)[5]
    table = table_of(np.array([*(np.eye(10)[[6, 0, 5]] + 0.01), between]))
    *(first, second, third), (_, uncertain) = categorise_videos(table, AxisEncoder())
    assert [name for name, _ in (first, second, third)] == ["Water Scenes", "Hand Actions", "Animals"]
    assert first[1] > 0.99 and 0.45 < uncertain < 0.55


def clusters(count: int = 4, each: int = 5, spread: float = 0.2) -> np.ndarray:
    """Embeddings (count · each, 16) around the axes."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.eye(16)[n] + spread * rng.normal(size=(each, 16)) for n in range(count)])


def test_the_best_of_each_cluster_come_first() -> None:
    table, scores = table_of(clusters()), np.arange(20) % 5 / 1.0
    chosen = select_videos(table, scores, 8, clusters=4)
    assert [video.rank for video in chosen] == [0] * 4 + [1] * 4
    assert [video.score for video in chosen] == [4] * 4 + [3] * 4
    assert {video.key for video in chosen[:4]} == {"train/4", "train/9", "train/14", "train/19"}
    assert len({video.cluster for video in chosen[:4]}) == 4
    assert chosen == select_videos(table, scores, 8, clusters=4)


def test_near_duplicates_are_left_out() -> None:
    embeddings = clusters(2, 2, 0.2)
    embeddings = np.concatenate([embeddings, embeddings + 1e-3, embeddings[:1]])
    chosen = select_videos(table_of(embeddings), np.arange(9.0), 9, clusters=2)
    assert len(chosen) == 4
    assert max(chosen, key=lambda video: video.score).key == "train/8"  # the better copy
