"""Features of every video: stored tar by tar, read again, and answers to questions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.features import MOTION, QUESTIONS, compute_features
from tests.video_dataset.clips import fields, small_dataset, write_dataset
from tests.video_dataset.models import CountingModel, NumberEncoder


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
    os.utime(data / "train" / "000001.tar", (1e9, 1e9))
    again = NumberEncoder()
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
