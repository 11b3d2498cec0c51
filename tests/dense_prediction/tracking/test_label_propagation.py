"""Labels carried by likeness: cases by hand, and against the plain way over all patches of all frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.tracking.label_propagation import PropagationConfig, propagate
from perception_encoder.errors import ConfigError, ShapeError


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


def test_a_patch_is_not_looked_for_beyond_reach() -> None:
    moved = one_hot_frames([2, 8])
    assert propagate(moved, first_label(2), PropagationConfig(nearest=1, reach=6))[1, 0, 8] == 1
    assert propagate(moved, first_label(2), PropagationConfig(nearest=1, reach=5))[1].sum() == 0


def test_the_first_frame_is_remembered_when_the_last_ones_show_nothing() -> None:
    hidden = one_hot_frames([3] * 12)
    hidden[1:11, 0, 3] = torch.tensor([1.0, 0.0])  # behind something for ten frames
    result = propagate(hidden, first_label(3), PropagationConfig(nearest=1))
    assert result[5].sum() == 0 and result[11, 0, 3] == 1


def test_weights_are_a_softmax_of_cosines() -> None:
    """One patch is compared with two: cosines 1 and 0.8 at temperature 0.1; its share of label 1 is the first's."""
    first = torch.tensor([[[1.0, 0.0], [0.8, 0.6]]])
    frames = torch.stack([first, torch.tensor([[[2.0, 0.0], [0.8, 0.6]]])])
    label = torch.tensor([[1, 0]])
    weight = 1 / (1 + math.exp(-0.2 / 0.1))
    from perception_encoder.dense_prediction.tracking import label_propagation

    unit = torch.nn.functional.normalize(frames, dim=-1)
    shares = torch.nn.functional.one_hot(label, 2).float()
    soft = label_propagation._vote(unit[1], unit[:1], shares[None], PropagationConfig(nearest=2))
    assert soft[0, 0].tolist() == pytest.approx([1 - weight, weight])
    assert soft[0, 1].tolist() == pytest.approx([weight, 1 - weight])


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
    alike = torch.ones(3, 4, 4, 2)
    assert (propagate(alike, torch.ones(8, 8, dtype=torch.int64)) == 1).all()


def test_tiles_give_what_the_plain_way_gives(monkeypatch) -> None:
    from perception_encoder.dense_prediction.tracking import label_propagation

    monkeypatch.setattr(label_propagation, "_TILE", 4)
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


def test_bad_settings_and_shapes_are_errors() -> None:
    with pytest.raises(ShapeError, match="two frames"):
        propagate(torch.ones(1, 2, 2, 3), torch.zeros(4, 4, dtype=torch.int64))
    for setting in ({"frames": 0}, {"nearest": 0}, {"reach": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            PropagationConfig(**setting)
