"""Detections in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.dense_prediction.detection.coco_results import CocoResults, numbered_names, read_image_ids
from perception_encoder.dense_prediction.detection.mask_rcnn import Detected
from perception_encoder.errors import DataError


def test_images_and_annotations_are_numbered(tmp_path: Path) -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:5] = True
    boxes = np.array([[2, 1, 5, 3], [0, 0, 8, 6]], np.float32)
    detected = Detected(boxes, np.array([2, 1]), np.array([0.9, 0.25], np.float32), masks)
    results = CocoResults([{"id": 47, "name": "cup"}, {"id": 90, "name": "mug"}])
    rows = results.add("a", (8, 6), detected)
    results.add("b", (8, 6), detected.above(0.5))
    value = results.write(tmp_path / "detections.json", tmp_path / "results.json")
    assert json.loads((tmp_path / "detections.json").read_text()) == value
    assert [each["image_id"] for each in value["annotations"]] == [1, 1, 2]
    assert [each["id"] for each in value["annotations"]] == [1, 2, 3]
    assert rows[0]["bbox"] == [2, 1, 3, 2] and rows[0]["area"] == 6 and rows[0]["category_id"] == 90
    plain = json.loads((tmp_path / "results.json").read_text())
    fields = {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert [each["category_id"] for each in plain] == [90, 47, 90] and plain[0].keys() == fields
    one = Detected(boxes[:1], np.array([1]), np.array([0.5], np.float32), None)
    assert "segmentation" not in CocoResults(results.categories).add("c", (8, 6), one)[0]


def test_images_have_the_ids_of_their_dataset(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a/x.jpg"}, {"id": 8, "file_name": "b/x.jpg"}, {"id": 9, "file_name": "b/y.jpg"}]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    ids = read_image_ids(tmp_path / "annotations.json")
    assert ids == {"a/x.jpg": 7, "b/x.jpg": 8, "b/y.jpg": 9, "y.jpg": 9}
    results = CocoResults([], ids)
    nothing = Detected(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), None)
    for name in ("b/x.jpg", "else/y.jpg", "new.jpg", "newer.jpg"):
        results.add(name, (8, 6), nothing)
    assert [each["id"] for each in results.images] == [8, 9, 10, 11]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": [{"id": "x", "file_name": "a"}]}))
    with pytest.raises(DataError, match=r"images\[0\]: `id` is 'x'; it must be an integer"):
        read_image_ids(tmp_path / "annotations.json")


def test_names_that_are_numbers_are_ids() -> None:
    assert numbered_names(["000000000139.jpg", "a/285.png"]) == {"000000000139.jpg": 139, "a/285.png": 285}
    assert numbered_names(["139.jpg", "cup.jpg"]) is None and numbered_names(["7.jpg", "a/007.jpg"]) is None
