"""Labels carried by likeness: by hand and the plain way; regions that look like a point or the middle of a box."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction import tracking
from perception_encoder.dense_prediction.predictions import TrackedFrame
from perception_encoder.dense_prediction.segmentation import (
    label_regions,
    region_in_box,
    region_like,
    to_fractions,
)
from perception_encoder.dense_prediction.tracking import (
    PropagationConfig,
    frame_size,
    maps_at,
    open_frames,
    propagate,
    track_objects,
    write_tracking,
)
from perception_encoder.errors import ConfigError, InputError
from tests.evaluation.layers import colour_layers, discs


def one_hot_frames(places: list[int], width: int = 20) -> torch.Tensor:
    """Frames of one row: a thing, unlike all else, at these places; elsewhere one texture."""
    frames = torch.zeros(len(places), 1, width, 2)
    frames[..., 0] = 1
    for frame, place in zip(frames, places, strict=True):
        frame[0, place] = torch.tensor([0.0, 1.0])
    return frames


def first_label(place: int, width: int = 20) -> torch.Tensor:
    label = torch.zeros(1, width, dtype=torch.int64)
    label[0, place] = 1
    return label


def test_a_label_goes_where_its_patch_goes() -> None:
    config = PropagationConfig(nearest=1)
    result = propagate(one_hot_frames([2, 4, 6, 8]), first_label(2), config)
    assert result[:, 0].tolist() == [[int(column == place) for column in range(20)] for place in (2, 4, 6, 8)]


def test_the_first_frame_is_remembered_when_the_last_ones_show_nothing() -> None:
    hidden = one_hot_frames([3] * 12)
    hidden[1:11, 0, 3] = torch.tensor([1.0, 0.0])  # behind something for ten frames
    result = propagate(hidden, first_label(3), PropagationConfig(nearest=1))
    assert result[5].sum() == 0 and result[11, 0, 3] == 1


def plainly(features: np.ndarray, first: np.ndarray, config: PropagationConfig) -> np.ndarray:
    """Soft labels, patch by patch."""
    count, h, w, _ = features.shape
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    soft = np.zeros((count, h, w, first.max() + 1))
    soft[0] = np.eye(first.max() + 1)[first]
    for t in range(1, count):
        asked = [0, *range(max(1, t - config.frames), t)]
        for y in range(h):
            for x in range(w):
                near = [
                    (float(unit[t, y, x] @ unit[s, v, u]), s, v, u)
                    for s in asked
                    for v in range(h)
                    for u in range(w)
                    if abs(v - y) <= config.reach and abs(u - x) <= config.reach
                ]
                best = sorted(near, reverse=True)[: config.nearest]
                weights = np.exp([cosine / config.temperature for cosine, *_ in best])
                for weight, (_, s, v, u) in zip(weights / weights.sum(), best, strict=True):
                    soft[t, y, x] += weight * soft[s, v, u]
    return soft


def test_an_object_that_fills_the_frame_stays() -> None:
    """Its map is 1 everywhere but for rounding, which is not stretched to 0–1."""
    features = torch.randn(6, 6, 6, 8, generator=torch.Generator().manual_seed(0))
    assert (propagate(features, torch.ones(12, 12, dtype=torch.int64)) == 1).all()  # before: 98 % of the last frame
    equal = torch.ones(3, 4, 4, 2)
    assert (propagate(equal, torch.ones(8, 8, dtype=torch.int64)) == 1).all()


def test_tiles_give_what_the_plain_way_gives(monkeypatch) -> None:
    monkeypatch.setattr(tracking, "TILE", 4)
    rng = np.random.default_rng(0)
    features, first = rng.normal(size=(4, 7, 9, 6)), rng.integers(0, 3, (7, 9))
    config = PropagationConfig(frames=2, nearest=4, reach=2, temperature=0.2)
    soft = plainly(features, first, config)
    low, high = soft.min(axis=(1, 2), keepdims=True), soft.max(axis=(1, 2), keepdims=True)
    result = propagate(torch.from_numpy(features), torch.from_numpy(first), config)  # pixels are patches
    assert (result[1:].numpy() == ((soft - low) / (high - low)).argmax(axis=-1)[1:]).all()


def test_pixels_of_the_first_frame_count_in_shares() -> None:
    """Of a patch of 4x4 pixels 6 are the object's: 3/8, which is more than in the other patches."""
    label = torch.zeros(8, 8, dtype=torch.int64)
    label[0:3, 0:2] = 1
    result = propagate(torch.eye(4).reshape(1, 2, 2, 4).expand(2, -1, -1, -1), label, PropagationConfig(nearest=1))
    assert result[1, 0, 0] == 1 and result[1, 7, 7] == 0


SIDE = 48


def frames_and_masks(count: int) -> tuple[list[Image.Image], list[np.ndarray]]:
    images, masks = discs(count)
    return [Image.fromarray(image) for image in images], list(masks)


@pytest.mark.parametrize(
    ("size", "short", "patch", "expected"),
    [((427, 240), 240, 16, (240, 432)), ((854, 480), 480, 14, (476, 854)), ((240, 427), 480, 16, (848, 480))],
)
def test_frames_keep_their_aspect_ratio(
    size: tuple[int, int], short: int, patch: int, expected: tuple[int, int]
) -> None:
    assert frame_size(size, short, patch) == expected


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_labels_are_those_of_the_whole_video_at_once(batch_size: int) -> None:
    images, masks = frames_and_masks(7)
    model = colour_layers().at(0)
    tracked = list(track_objects(images, masks[0], model, SIDE, batch_size=batch_size))
    features = torch.from_numpy(maps_at(model, images, SIDE))
    expected = propagate(features, torch.from_numpy(masks[0]).long())
    assert [frame.size for frame, _ in tracked] == [image.size for image in images]
    assert all(np.array_equal(labels, item) for (_, labels), item in zip(tracked, expected.numpy(), strict=True))
    overlap = ((tracked[-1][1] > 0) & (masks[-1] > 0)).sum() / ((tracked[-1][1] > 0) | (masks[-1] > 0)).sum()
    assert overlap > 0.6


def test_a_long_video_takes_bounded_memory() -> None:
    """Frames come from a generator, and no more than a batch is taken before labels are given."""
    images, masks = frames_and_masks(2)
    taken = itertools.count()
    frames = (next(taken) is not None and image for image in itertools.cycle(images))
    tracked = track_objects(frames, masks[0], colour_layers().at(0), SIDE, batch_size=4)
    for _ in range(9):
        next(tracked)
    assert next(taken) == 12


def test_frames_of_a_directory_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (9, 10, 11, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    names, total, _, frames = open_frames(tmp_path)
    expected = ["frame_9", "frame_10", "frame_11", "frame_100"]
    assert list(names) == [(name, None) for name in expected] and total == 4
    assert [frame.getpixel((0, 0))[0] for frame in frames] == [9, 10, 11, 100]


def test_masks_of_a_video_that_fails_later_stay(tmp_path: Path) -> None:
    def frames() -> Iterator[TrackedFrame]:
        yield TrackedFrame(name="00000", image=Image.new("RGB", (48, 32)), labels=np.eye(32, 48, dtype=int))
        raise InputError("frame 1", "is damaged")

    with pytest.raises(InputError, match="damaged"):
        list(write_tracking(frames(), tmp_path, "clip", 5, {}))
    assert [path.name for path in tmp_path.iterdir()] == ["clip"] and (tmp_path / "clip" / "00000.png").is_file()


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


def test_a_point_s_region_does_not_cover_the_object_of_a_box() -> None:
    box = (2 / 8, 1 / 8, 7 / 8, 6 / 8)
    alone = label_regions(square(), [box], (80, 80))
    labels = label_regions(square(), [box, (0.5, 0.4), (0.05, 0.95)], (80, 80))
    assert alone.any() and np.array_equal(labels == 1, alone == 1) and labels[5, 5] == 3


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0.6, 1, 0.4), (0, 0, 1.2, 1)])
def test_a_box_needs_an_area_inside_the_image(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="left, top, right, bottom"):
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
