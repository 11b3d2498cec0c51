"""Regions that look like a point, or like the middle of a box."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.dense_prediction.segmentation import (
    label_regions,
    region_in_box,
    region_like,
    to_fractions,
)
from perception_encoder.errors import ConfigError


def square() -> np.ndarray:
    """Features of 8x8 patches: a square of rows 2 to 4 and columns 3 to 5 before a background, with some noise."""
    features = np.random.default_rng(0).normal(0, 0.1, (8, 8, 4))
    features[..., 0] += 1
    features[2:5, 3:6] += (-1, 1, 0, 0)
    return features.astype(np.float32)


INSIDE = np.zeros((8, 8), bool)
INSIDE[2:5, 3:6] = True


def test_a_region_is_what_looks_like_the_point() -> None:
    assert np.array_equal(region_like(square(), (0.5, 0.4)) > 0, INSIDE)
    assert np.array_equal(region_like(square(), (0.05, 0.95)) > 0, ~INSIDE)
    assert np.array_equal(region_like(square(), (1.0, 1.0)) > 0, ~INSIDE)


def test_a_box_around_an_object_gives_its_shape() -> None:
    assert np.array_equal(region_in_box(square(), (2 / 8, 1 / 8, 7 / 8, 6 / 8)) > 0, INSIDE)
    assert (region_in_box(square(), (0, 0, 1, 1)) > 0).all()
    assert (region_in_box(square(), (0.3, 0.3, 0.31, 0.31)) > 0).sum() <= 1


def test_the_lengths_of_features_change_no_region() -> None:
    """Only their directions count; in float32, by powers of two."""
    lengths = np.float32(2.0) ** np.random.default_rng(1).integers(-5, 6, (8, 8, 1)).astype(np.float32)
    assert np.allclose(region_like(lengths * square(), (0.5, 0.4)), region_like(square(), (0.5, 0.4)), atol=1e-6)
    box = (2 / 8, 1 / 8, 7 / 8, 6 / 8)
    assert np.allclose(region_in_box(lengths * square(), box), region_in_box(square(), box), atol=1e-6)


def test_an_object_of_two_colours_has_their_mean_direction() -> None:
    features = np.zeros((8, 8, 3), np.float32)
    features[..., 0] = 1
    features[2:6, 2:6] = np.eye(3, dtype=np.float32)[1 + np.indices((4, 4)).sum(axis=0) % 2]
    region = region_in_box(features, (2 / 8, 2 / 8, 6 / 8, 6 / 8))
    assert region[2:6, 2:6] == pytest.approx(np.full((4, 4), np.sqrt(0.5)), abs=1e-6)


def test_regions_are_numbered_and_a_later_one_is_on_top() -> None:
    labels = label_regions(square(), [(0.05, 0.95), (0.5, 0.4)], (80, 80))
    assert labels[5, 5] == 1 and labels[35, 45] == 2 and labels.all()
    assert set(label_regions(square(), [(0.5, 0.4), (0.55, 0.45)], (80, 80)).flat) == {0, 2}


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0.6, 1, 0.4), (0, 0, 1.2, 1)])
def test_a_box_needs_an_area_inside_the_image(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="must be left, top, right, bottom from 0 to 1"):
        region_in_box(square(), box)


def test_the_object_of_a_box_is_like_its_middle_half() -> None:
    """Three kinds of patches: the middle, the rest of the box, and its surroundings; only the middle is the object."""
    kinds = np.full((8, 8), 2)
    kinds[2:6, 2:6] = 1
    kinds[3:5, 3:5] = 0
    region = region_in_box(np.eye(3, dtype=np.float32)[kinds], (0.25, 0.25, 0.75, 0.75))
    assert np.array_equal(region > 1e-6, kinds == 0)


def test_positions_are_pixels_or_fractions() -> None:
    assert to_fractions((0.25, 1), (200, 100)) == (0.25, 1)
    assert to_fractions((50, 100), (200, 100)) == (0.25, 1)
    assert to_fractions((0, 0, 200, 50), (200, 100)) == (0, 0, 1, 0.5)
    for position in ((201, 5), (-0.1, 0.5), (5, 101), (1, 2, 3)):
        with pytest.raises(ConfigError, match="not inside the image of 200x100 pixels"):
            to_fractions(position, (200, 100))
