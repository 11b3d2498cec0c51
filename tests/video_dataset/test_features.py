"""Features of every video: stored tar by tar, read again, and answers to questions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_dataset.features import (
    MOTION,
    QUESTIONS,
    answer_columns,
    answer_questions,
    extract_features,
    read_features,
)
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset
from tests.video_dataset.models import CountingModel, NumberEncoder


def test_motion_frames_and_answers(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data", 2)
    run = extract_features(data, tmp_path / "out", NumberEncoder(), CountingModel())
    assert (run.videos, run.failures) == (2, ())
    table = read_features(tmp_path / "out")
    assert table.keys == ("train/v0", "train/v1") and len(table) == 2
    assert table.values.shape == (2, len(table.names)) == (2, 5 + 11 + 3 * 2 + 26)
    row = dict(zip(table.names, table.values[0], strict=True))
    assert (row["motion_rate"], row["motion_frames"], row["motion_key_frames"]) == (10, 20, 2)
    assert [row[f"frame{n}_0"] for n in range(3)] == [0, 9, 19]  # the numbers of three uniform frames
    assert row["answer_hidden_view"] == 0.25 and MOTION[-1] == "objects_area_p100"
    assert row["objects_moving"] > 0
    assert np.allclose(table.embeddings[0], np.array([28 / 3, 1]) / np.hypot(28 / 3, 1))


def test_an_interrupted_run_goes_on_at_the_next_tar(tmp_path: Path) -> None:
    tars = [[(f"{tar}{n}", fields("x")) for n in range(2)] for tar in "ab"]
    data = write_dataset(tmp_path / "data", {"train": tars})
    extract_features(data, tmp_path / "out", NumberEncoder())
    (tmp_path / "out" / "train-000001.parquet").unlink()
    again = NumberEncoder()
    assert extract_features(data, tmp_path / "out", again).videos == 4 and again.images == 2 * 3
    other = NumberEncoder()
    other.name = "another model"
    extract_features(data, tmp_path / "out", other)
    assert other.images == 4 * 3  # all anew


def test_every_tar_has_a_table_of_its_own(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": [[("inner", fields("x"))]]})
    (data / "train" / "000000.tar").rename(data / "train" / "train.tar")
    other = write_dataset(tmp_path / "other", {"train": [[("outer", fields("x"))]]})
    (other / "train" / "000000.tar").rename(data / "train.tar")
    assert extract_features(data, tmp_path / "out", NumberEncoder()).videos == 2
    assert sorted(read_features(tmp_path / "out").keys) == ["train/inner", "train/outer"]
    again = NumberEncoder()
    assert extract_features(data, tmp_path / "out", again).videos == 2 and again.images == 0


def test_a_video_that_cannot_be_decoded_is_reported(tmp_path: Path) -> None:
    small_dataset(tmp_path / "data", 1)
    bad = [("bad.mp4", b"no video" * 100), ("bad.json", json_bytes({}))]
    write_members(tmp_path / "data" / "train" / "000001.tar", bad)
    run = extract_features(tmp_path / "data", tmp_path / "out", NumberEncoder())
    assert run.videos == 1 and "bad" in run.failures[0].source
    assert read_features(tmp_path / "out").keys == ("train/v0",)


def test_features_of_an_older_version_are_refused(tmp_path: Path) -> None:
    extract_features(small_dataset(tmp_path / "data", 1), tmp_path / "out", NumberEncoder())
    (path,) = (tmp_path / "out").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["objects_moving"]), path)
    with pytest.raises(DataError, match="has an older version; delete it and rerun `pe video-dataset select`"):
        read_features(tmp_path / "out")


def test_tables_that_are_missing_or_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no features"):
        read_features(tmp_path)
    data = write_dataset(tmp_path / "data", {"train": [[("a", fields("x"))]], "test": [[("b", fields("x"))]]})
    extract_features(data, tmp_path / "out", NumberEncoder())
    (tmp_path / "out" / "test-000000.parquet").unlink()
    extract_features(data / "test", tmp_path / "out", NumberEncoder(), CountingModel())
    with pytest.raises(DataError, match="some features have answers and others do not"):
        read_features(tmp_path / "out")


def test_there_are_26_different_questions() -> None:
    assert len(set(QUESTIONS.values())) == len(answer_columns()) == 26
    assert all(re.fullmatch(r"[A-Z][^?]*\?", question) for question in QUESTIONS.values())
    groups = {name.split("_")[0] for name in QUESTIONS}
    assert groups == {"camera", "scene", "motion", "action", "content", "hidden"}


def test_every_question_is_about_the_video() -> None:
    model = CountingModel()
    answers = answer_questions(model, read_frames(short_clip(), frames=8))
    assert np.array_equal(answers, np.arange(26) / 100) and len(model.conversations) == 26
    assert model.conversations[3][0].content[1] == "Is the camera far away from what it films? Answer yes or no."
