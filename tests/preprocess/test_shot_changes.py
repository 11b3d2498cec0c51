"""Colours of an image by cell, and how much of them changes."""

from __future__ import annotations

import pytest
from PIL import Image

from perception_encoder.preprocess.shot_changes import SHOT_CHANGE, colour_change, colour_histogram


def test_colours_are_counted_by_cell() -> None:
    left_red = Image.new("RGB", (64, 32), "red")
    left_red.paste("blue", (32, 0, 64, 32))
    right_red = left_red.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    histograms = [colour_histogram(image) for image in (left_red, right_red, left_red.resize((640, 320)))]
    assert [histogram.sum() for histogram in histograms] == pytest.approx([1, 1, 1])
    changed = [colour_change(histograms[0], other) for other in histograms[1:]]
    assert changed == pytest.approx([1, 0])


def test_noise_is_not_a_change_of_shot_but_other_colours_are() -> None:
    noise = [Image.effect_noise((64, 48), sigma) for sigma in (10, 12)]
    first, second = map(colour_histogram, noise)
    assert colour_change(first, second) < SHOT_CHANGE
    assert colour_change(first, colour_histogram(Image.new("RGB", (64, 48), "white"))) > SHOT_CHANGE
