"""Tracking: noise, DAVIS's conventions, J and F by hand and against distances between all pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense.tracking import (
    TrackingEvaluator,
    boundary,
    boundary_accuracy,
    region_similarity,
    score_masks,
    tolerance_pixels,
    tracking_scores,
)
from perception_encoder.evaluation.statistics.scores import measure
from tests.evaluation.layers import colour_source, discs, write_video

SHORT_SIDE = 48


def test_colours_track_coloured_objects(tmp_path: Path) -> None:
    write_video(tmp_path / "discs.tar", *discs())
    result = list(TrackingEvaluator(read_videos(tmp_path), SHORT_SIDE).run(colour_source()))
    assert [metric.name for metric in result] == ["J&F", "J", "F"]
    both, region, boundary = (metric.value for metric in result)
    assert region > 0.8 and both == pytest.approx((region + boundary) / 2)
    assert result[0].settings == {"layer": "0", "short side": "48"}
    noise = list(TrackingEvaluator(read_videos(tmp_path), SHORT_SIDE).run(colour_source(layer=1)))
    assert noise[0].value < both / 2


def test_the_first_and_the_last_frame_are_not_scored() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 7
    right, wrong = (truth == 7).astype(np.int64), np.zeros((20, 20), np.int64)
    result = score_masks("v", np.stack([wrong, right, wrong, wrong]), [truth] * 4, [7])
    assert result.tolist() == [[0.5], [0.5]]
    two = score_masks("v", np.stack([wrong, right]), [truth] * 2, [7])  # of two frames the second is all there is
    assert two.tolist() == [[1.0], [1.0]]


def test_void_pixels_count_for_nothing() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:10, 5:15], truth[10:15, 5:15] = 1, 255
    followed = np.zeros((3, 20, 20), np.int64)
    followed[:, 5:15, 5:15] = 1
    assert score_masks("v", followed, [truth] * 3, [1])[0].tolist() == [1.0]


def test_the_mean_is_over_objects_and_videos_are_drawn() -> None:
    scores = {
        "a": np.array([[1.0, 0.0], [1.0, 0.5]]),
        "b": np.ones((2, 1)),
    }
    both, region, boundary = map(measure, tracking_scores(scores))
    assert (region.value, boundary.value) == (pytest.approx(2 / 3), pytest.approx(2.5 / 3))
    assert both.value == pytest.approx(4.5 / 6) and both.n == 2
    low, high = region.interval
    assert 0 <= low < 0.01 and 0.99 < high <= 1  # Student's t of two videos: they say nothing


def test_a_video_whose_masks_will_not_do_is_reported_and_left_out(tmp_path: Path) -> None:
    images, masks = discs(4)
    write_video(tmp_path / "empty.tar", images, [np.zeros_like(masks[0]), *masks[1:]])
    write_video(tmp_path / "good.tar", images, masks)
    write_video(tmp_path / "one.tar", images, [masks[0], None, None, None])
    write_video(tmp_path / "sizes.tar", images, [*masks[:3], masks[3][:-1]])
    result = list(TrackingEvaluator(read_videos(tmp_path), SHORT_SIDE).run(colour_source()))
    assert [failure.source for failure in result[0].failures] == ["empty", "one", "sizes"] and result[0].n == 1
    bad = [video for video in read_videos(tmp_path) if video.name != "good"]
    with pytest.raises(DataError, match="the first: empty: the mask"):
        list(TrackingEvaluator(bad, SHORT_SIDE).run(colour_source()))


def test_a_clip_of_davis(real_data: Path) -> None:
    """Colours follow a black swan far better than noise, and a finer grid follows it better."""
    (swan,) = read_videos(real_data / "davis" / "blackswan.tar")
    swan = type(swan)(swan.name, swan.frames[:6], swan.masks[:6])
    scores = {}
    for short, layer in ((120, 0), (240, 0), (240, 1)):
        result = list(TrackingEvaluator([swan], short).run(colour_source(16, layer=layer)))
        scores[short, layer] = result[0].value
    assert scores[240, 0] > scores[120, 0] and scores[240, 0] > scores[240, 1] + 0.2


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
