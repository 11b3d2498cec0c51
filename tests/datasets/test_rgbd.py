"""Depth datasets: NYU's layout, tars, sequences as blocks, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.rgbd import DepthImages, read_depth_splits
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.formats.shards import write_members
from tests.data.tars import write_file
from tests.datasets.drawn import stored
from tests.evaluation.layers import png


def test_nyu_directories(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for names in (("rgb_00045.jpg", "sync_depth_00045.png"), ("rgb/7.jpg", "depth/7.png")):
            for name, content in zip(names, (png(np.zeros((2, 2, 3), np.uint8)), stored(np.ones((2, 2)))), strict=True):
                write_file(tmp_path / split / "bathroom" / name, content)
    train, _ = read_depth_splits(tmp_path)
    assert train.keys == ("bathroom/00045", "bathroom/7") and train.depth(1).tolist() == [[1, 1], [1, 1]]
    assert train.blocks == train.select([0, 1]).blocks == ("bathroom", "bathroom")
    (tmp_path / "test" / "bathroom" / "rgb_00046.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="1 images lack a depth"):
        read_depth_splits(tmp_path)


def test_images_of_one_sequence_are_one_block(tmp_path: Path) -> None:
    """A path without splits is a sequence, as TUM's rgb/ is; images of a split, rendered scenes say, are not."""
    members = [
        (f"{n}.{kind}", content)
        for n in range(5)
        for kind, content in (("jpg", png(np.zeros((2, 2, 3), np.uint8))), ("depth.png", stored(np.ones((2, 2)))))
    ]
    for name in ("walk.tar", "scenes/train.tar", "scenes/test.tar"):
        write_members(tmp_path / name, members)
    _, walk = read_depth_splits(tmp_path / "walk.tar")
    assert len(walk.keys) == 2 and len(set(walk.blocks)) == 1
    _, scenes = read_depth_splits(tmp_path / "scenes")
    assert scenes.blocks == scenes.keys and scenes.select([1, 3]).blocks == ("1", "3")
    for split in ("train", "test"):
        for name, content in (("rgb/7.jpg", members[0][1]), ("depth/7.png", members[1][1])):
            write_file(tmp_path / "tum" / split / name, content)
    assert read_depth_splits(tmp_path / "tum")[1].blocks == ("",)


def test_the_living_room(real_data: Path) -> None:
    train, test = read_depth_splits(real_data / "rgbd" / "livingroom.tar")
    assert (len(train.keys), len(test.keys)) == (30, 20)
    assert train.depth(0).shape == (240, 320) and 1 < float(train.depth(0).mean()) < 3


def test_missing_and_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="has no depth file"):
        read_depth_splits(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has only one of train and test"):
        read_depth_splits(tmp_path)
    depths = (png(np.zeros((2, 2), np.uint8)),)
    one = DepthImages(name="n", keys=("m",), images=(b"",), depths=depths, blocks=("m",))
    with pytest.raises(MediaDecodeError, match=r"m \(depth\): has the mode L"):
        one.depth(0)
