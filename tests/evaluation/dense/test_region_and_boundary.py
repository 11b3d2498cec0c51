"""J and F: cases by hand, and against distances between all pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception_encoder.evaluation.dense.tracking import (
    boundary,
    boundary_accuracy,
    region_similarity,
    tolerance_pixels,
)


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def blobs(seed: int, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform((0, 0, 4), (*size, 16), (3, 3))
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 < r * r for cy, cx, r in centres], axis=0)


def test_j_by_hand() -> None:
    one, two = (rectangle((10, 10), slice(2, 6), columns) for columns in (slice(2, 6), slice(4, 8)))
    assert region_similarity(one, two) == 8 / 24
    assert region_similarity(one, one) == 1 and region_similarity(one, ~one) == 0
    nothing = np.zeros((10, 10), bool)
    assert region_similarity(nothing, nothing) == 1 and region_similarity(nothing, one) == 0


def test_empty_masks_as_davis_has_them() -> None:
    nothing, thing = np.zeros((30, 40), bool), rectangle((30, 40), slice(5, 9), slice(5, 9))
    assert boundary_accuracy(nothing, nothing) == 1 and not boundary(~nothing).any()  # the image's edge is none
    assert tolerance_pixels(240, 427) == 4 and tolerance_pixels(480, 854) == 8
    assert boundary_accuracy(nothing, thing) == 0 and boundary_accuracy(thing, nothing) == 0


def test_f_is_that_of_all_distances() -> None:
    """An independent way: the boundary pixel by pixel, and how far each lies from the nearest of the others."""

    def edge(mask: np.ndarray) -> np.ndarray:
        h, w = mask.shape
        result = []
        for y in range(h):
            for x in range(w):
                near = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (1, 1)) if y + dy < h and x + dx < w]
                if any(mask[y, x] != mask[place] for place in near):
                    result.append((y, x))
        return np.array(result)

    for seed in range(3):
        mask, truth = blobs(seed), blobs(seed) ^ blobs(seed + 10)
        found, true = edge(mask), edge(truth)
        distances = np.linalg.norm(found[:, None] - true[None], axis=-1)
        limit = math.ceil(0.008 * math.hypot(70, 90))
        precision, recall = (distances.min(axis=axis) <= limit for axis in (1, 0))
        expected = 2 * precision.mean() * recall.mean() / (precision.mean() + recall.mean())
        assert 0 < expected < 1
        assert boundary_accuracy(mask, truth) == pytest.approx(expected)
