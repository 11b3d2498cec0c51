"""Masks of images, and their tokens on a patch grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.errors import ShapeError
from perception_encoder.spatial_alignment.mask_teachers import (
    SCENES,
    SEGMENTS,
    Segments,
    find_mask_teacher,
    mask_tokens,
    one_hot_masks,
)
from tests.spatial_alignment.conftest import scene


def test_a_patch_has_the_shares_of_its_masks() -> None:
    ids = torch.zeros(8, 8, dtype=torch.long)
    ids[:, 4:] = 7
    tokens = mask_tokens(one_hot_masks(ids), (1, 2))
    assert tokens.tolist() == [[1, 0], [0, 1]]
    ids[:, 3] = 7
    assert mask_tokens(one_hot_masks(ids), (1, 2)).tolist() == [[0.75, 0.25], [0, 1]]


def test_logits_of_any_resolution_are_brought_to_the_grid() -> None:
    logits = torch.arange(16.0).view(4, 4, 1).repeat(1, 1, 3)
    assert mask_tokens(logits, (4, 4))[:, 2].tolist() == list(range(16))
    assert mask_tokens(logits, (8, 8)).shape == (64, 3)
    for wrong in (torch.rand(4, 4), torch.rand(4, 4, 0)):
        with pytest.raises(ShapeError, match="must be"):
            mask_tokens(wrong, (2, 2))


def test_segments_tell_two_colours_apart() -> None:
    pixels, mask = scene(2)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    masks = Segments().masks(image)
    assert masks.shape[:2] == (64, 64)
    tokens = torch.nn.functional.normalize(masks[:, :, :].flatten(0, 1), dim=-1)
    first, background = (np.argwhere(mask.ravel() == identity)[5, 0] for identity in (2, 0))
    inside = np.argwhere(mask.ravel() == 2)[-5, 0]
    assert tokens[first] @ tokens[inside] > tokens[first] @ tokens[background]


def test_teachers_by_name() -> None:
    assert find_mask_teacher(SCENES, torch.device("cpu")) is None
    teacher = find_mask_teacher(SEGMENTS, torch.device("cpu"))
    assert isinstance(teacher, Segments) and "felzenszwalb" in teacher.identity
