"""Masks of images, and their tokens on a patch grid."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ShapeError
from perception_encoder.spatial_alignment.mask_teachers import (
    SCENES,
    find_mask_teacher,
    mask_tokens,
    one_hot_masks,
)


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


def test_scenes_have_masks_of_their_own() -> None:
    assert find_mask_teacher(SCENES, torch.device("cpu")) is None
