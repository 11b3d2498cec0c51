"""Frames that are taken of a video, and changes of shot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.frames import (
    SHOT_CHANGE,
    colour_change,
    colour_histogram,
    frame_indices,
    plm_frame_indices,
)

GOLDEN = Path(__file__).parent.parent / "golden"
PLM_FRAMES = [
    *json.loads((GOLDEN / "plm.json").read_text())["video_frames"],
    *json.loads((GOLDEN / "plm_frames.json").read_text()),
]


def test_indices_follow_the_reference_s_formula() -> None:
    assert frame_indices(300, 8) == [0, 42, 85, 128, 170, 213, 256, 299]
    assert (frame_indices(100, 1), frame_indices(1, 8)) == ([0], [0] * 8)
    for total in range(1, 60):
        for count in range(2, 20):
            assert frame_indices(total, count) == [int(i * (total - 1) / (count - 1)) for i in range(count)]


def test_plm_frames_are_those_of_the_reference() -> None:
    given = ("frames_total", "fps", "max_frames", "start_s", "end_s")
    for case in PLM_FRAMES:
        assert plm_frame_indices(*(case[name] for name in given)) == case["positions"], case


def test_plm_frames_of_a_part_that_does_not_exist_are_an_error() -> None:
    with pytest.raises(ConfigError, match="no frame lies between 9 and 12 s"):
        plm_frame_indices(60, 30, 8, 9, 12)


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
