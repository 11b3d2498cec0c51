"""Detections in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from perception_encoder.dense_prediction.detection.coco_results import CocoResults
from perception_encoder.dense_prediction.detection.mask_rcnn import Detected


def test_images_and_annotations_are_numbered(tmp_path: Path) -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:5] = True
    boxes = np.array([[2, 1, 5, 3], [0, 0, 8, 6]], np.float32)
    detected = Detected(boxes, np.array([2, 1]), np.array([0.9, 0.25], np.float32), masks)
    results = CocoResults(["cup", "mug"])
    rows = results.add("a", (8, 6), detected)
    results.add("b", (8, 6), detected.above(0.5))
    value = results.write(tmp_path / "detections.json")
    assert json.loads((tmp_path / "detections.json").read_text()) == value
    assert [each["image_id"] for each in value["annotations"]] == [1, 1, 2]
    assert [each["id"] for each in value["annotations"]] == [1, 2, 3]
    assert rows[0]["bbox"] == [2, 1, 3, 2] and rows[0]["area"] == 6 and rows[0]["category_id"] == 2
    assert (
        "segmentation"
        not in CocoResults(["cup"]).add(
            "c", (8, 6), Detected(boxes[:1], np.array([1]), np.array([0.5], np.float32), None)
        )[0]
    )
