"""Predictions drawn over images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.drawing import (
    depth_colours,
    depth_png,
    draw_detections,
    draw_objects,
    mask_png,
    object_palette,
    overlay_png,
)


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


def test_the_palette_is_pascal_vocs() -> None:
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        4: (0, 0, 128),
        5: (128, 0, 128),
        8: (64, 0, 0),
        255: (224, 224, 192),
    }
    assert {label: tuple(object_palette()[label].tolist()) for label in known} == known
    assert len(np.unique(object_palette(), axis=0)) == 256


def test_a_mask_is_read_as_its_labels() -> None:
    labels = np.arange(256).reshape(16, 16)
    image = Image.open(io.BytesIO(mask_png(labels)))
    assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
    assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)


def test_objects_are_coloured_and_outlined() -> None:
    labels = np.zeros((20, 20), int)
    labels[5:15, 5:15] = 2
    drawn = np.asarray(draw_objects(Image.new("RGB", (20, 20), (200, 200, 200)), labels))
    assert tuple(drawn[0, 0]) == (200, 200, 200)
    assert tuple(drawn[10, 10]) == (100, 164, 100)
    assert tuple(drawn[5, 10]) == (128, 192, 128)  # rounded to even


def test_an_overlay_is_drawn_over_an_image() -> None:
    labels = np.zeros((20, 20), int)
    labels[5:15, 5:15] = 3
    overlay = Image.open(io.BytesIO(overlay_png(labels)))
    assert overlay.mode == "RGBA" and overlay.size == (20, 20)
    assert overlay.getpixel((0, 0))[3] == 0
    assert overlay.getpixel((10, 5)) == (192, 192, 128, 255) and overlay.getpixel((10, 10)) == (128, 128, 0, 128)
    image = Image.new("RGBA", (20, 20), (200, 20, 20, 255))
    drawn = np.asarray(Image.alpha_composite(image, overlay).convert("RGB"), int)
    assert np.abs(drawn - np.asarray(draw_objects(image, labels), int)).max() <= 1
