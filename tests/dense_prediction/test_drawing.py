"""Predictions drawn over images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from perception_encoder.dense_prediction.detection.mask_rcnn import Detected
from perception_encoder.dense_prediction.drawing import depth_colours, depth_png, draw_detections


def test_near_is_bright() -> None:
    colours = depth_colours(np.array([[0.5, 1.0, 2.0, 8.0]]))[0].astype(int).sum(axis=1)
    assert (np.diff(colours) < 0).all() and colours[0] > 650 and colours[-1] < 10
    assert depth_colours(np.ones((2, 2))).std() == depth_colours(np.ones((2, 2)))[0, 0].std()


def test_depth_is_stored_in_millimetres() -> None:
    stored = np.asarray(Image.open(io.BytesIO(depth_png(np.array([[0.0015, 2.5], [70.0, 0.0]])))))
    assert stored.tolist() == [[2, 2500], [65535, 0]]


def test_boxes_names_and_masks_are_drawn() -> None:
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 20:40, 20:50] = True
    detected = Detected(np.array([[20, 20, 50, 40]], np.float32), np.array([1]), np.array([0.9], np.float32), masks)
    drawn = np.asarray(draw_detections(Image.new("RGB", (80, 60), (200, 200, 200)), detected, ["mug"])).astype(int)
    assert drawn[30, 35].tolist() == [164, 100, 100] and drawn[20, 40].tolist() == [128, 0, 0]
    assert (drawn[8:19, 20:50] == (128, 0, 0)).all(axis=2).any() and drawn[55, 70].tolist() == [200, 200, 200]
    assert len(detected.above(0.95).boxes) == 0 and len(detected.above(0.5).masks) == 1
