"""Objects followed through a video, frame by frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction.tracking.label_propagation import propagate
from perception_encoder.dense_prediction.tracking.video_tracking import LayerOf, frame_size, track_objects
from perception_encoder.errors import DataError, InputError
from tests.evaluation.layers import ColourLayers, discs

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
    model = LayerOf(ColourLayers(), 0)
    tracked = list(track_objects(images, masks[0], model, SIDE, batch_size=batch_size))
    features = torch.from_numpy(model.maps(images, SIDE))
    expected = propagate(features, torch.from_numpy(masks[0]).long())
    assert [frame.size for frame, _ in tracked] == [image.size for image in images]
    assert all(np.array_equal(labels, own) for (_, labels), own in zip(tracked, expected.numpy(), strict=True))
    overlap = ((tracked[-1][1] > 0) & (masks[-1] > 0)).sum() / ((tracked[-1][1] > 0) | (masks[-1] > 0)).sum()
    assert overlap > 0.6


def test_objects_keep_their_numbers() -> None:
    images, masks = frames_and_masks(3)
    numbered = np.where(masks[0] > 0, masks[0].astype(int) + 40, 0)
    tracked = list(track_objects(images, numbered, LayerOf(ColourLayers(), 0), SIDE))
    assert set(np.unique(tracked[-1][1])) == set(np.unique(numbered))


def test_a_long_video_takes_bounded_memory() -> None:
    """Frames come from a generator, and no more than a batch is taken before labels are given."""
    images, masks = frames_and_masks(2)
    taken = itertools.count()
    frames = (next(taken) is not None and image for image in itertools.cycle(images))
    tracked = track_objects(frames, masks[0], LayerOf(ColourLayers(), 0), SIDE, batch_size=4)
    for _ in range(9):
        next(tracked)
    assert next(taken) == 12


def test_bad_videos_and_masks() -> None:
    images, masks = frames_and_masks(3)
    model = LayerOf(ColourLayers(), 0)
    with pytest.raises(DataError, match="the first mask is empty"):
        list(track_objects(images, np.zeros_like(masks[0]), model, SIDE))
    with pytest.raises(DataError, match=r"the mask is of 3x3 pixels, the first frame of "):
        list(track_objects(images, np.ones((3, 3), np.uint8), model, SIDE))
    with pytest.raises(InputError, match=r"frame 1: is of 20x30 pixels, the first frame of"):
        list(track_objects([images[0], images[1].resize((20, 30))], masks[0], model, SIDE))
    with pytest.raises(DataError, match="no frames"):
        list(track_objects([], masks[0], model, SIDE))
