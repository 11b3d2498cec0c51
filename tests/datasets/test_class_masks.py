"""Class masks: directories of images and masks, ADE20K's layout, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.errors import DataError
from tests.data.tars import write_file
from tests.evaluation.layers import png


def test_ade_directories(tmp_path: Path) -> None:
    for split, value in (("training", 1), ("validation", 0)):
        write_file(tmp_path / "images" / split / "a.jpg", png(np.zeros((2, 2, 3), np.uint8)))
        write_file(tmp_path / "annotations" / split / "a.png", png(np.array([[value, 2]], np.uint8)))
    train, test = read_class_splits(tmp_path)
    assert train.labels(0).tolist() == [[0, 1]] and test.labels(0).tolist() == [[-1, 1]]
    assert len(train.classes) == 150
    (tmp_path / "images" / "training" / "b.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="training: b lacks its image or its mask"):
        read_class_splits(tmp_path)


def write_pairs(place: Path, masks: list[np.ndarray], suffix: str = "jpg") -> None:
    for number, mask in enumerate(masks):
        for name, content in (
            (f"images/a/{number}.{suffix}", png(np.zeros((*mask.shape, 3), np.uint8))),
            (f"masks/a/{number}.png", png(mask)),
        ):
            write_file(place / name, content)


def test_images_and_masks_in_directories(tmp_path: Path) -> None:
    """They were refused: "no annotations/ and no train/*.tar"."""
    masks = [np.array([[0, 1, 255], [2, 2, 0]], np.uint8)] * 5
    write_pairs(tmp_path, masks, "webp")
    train, test = read_class_splits(tmp_path)
    assert (train.keys, test.keys) == (("a/0", "a/1", "a/2"), ("a/3", "a/4"))
    assert train.classes == test.classes == ("background", "class 1", "class 2")
    assert train.labels(0).tolist() == [[0, 1, -1], [2, 2, 0]] and train.open(0).size == (3, 2)
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\ntree\n", encoding="utf-8")
    assert read_class_splits(tmp_path)[1].classes == ("road", "car", "sky", "tree")
    (tmp_path / "classes.txt").write_text("road\ncar\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a mask holds 2; classes\.txt names 2"):
        read_class_splits(tmp_path)
    (tmp_path / "images" / "a" / "4.webp").unlink()
    with pytest.raises(DataError, match="a/4 lacks its image or its mask"):
        read_class_splits(tmp_path)


def test_directories_with_splits_and_masks_of_black_and_white(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", [np.array([[0, 255]], np.uint8)])
    write_pairs(tmp_path / "val", [np.array([[255, 255]], np.uint8)])
    train, test = read_class_splits(tmp_path)
    assert train.classes == ("background", "object") and train.name.endswith("/train")
    assert train.labels(0).tolist() == [[0, 1]] and test.labels(0).tolist() == [[1, 1]]
    for mask in (tmp_path / "train" / "masks" / "a" / "0.png", tmp_path / "val" / "masks" / "a" / "0.png"):
        mask.write_bytes(png(np.array([[0, 0]], np.uint8)))
    with pytest.raises(DataError, match="the masks show only one class"):
        read_class_splits(tmp_path)


def test_a_directory_without_masks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no masks/, train/masks/"):
        read_class_splits(tmp_path)
