"""Masks with DAVIS's palette, and objects drawn over images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from perception_encoder.dense_prediction.overlay import draw_objects, mask_png, object_palette, overlay_png


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
