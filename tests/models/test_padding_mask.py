"""One batch of images of several aspect ratios gives what each image gives alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception_encoder.errors import ShapeError
from perception_encoder.models.config import VisionConfig
from tests.models.small import KINDS, PATCH, random_images, small_tower

GRIDS = [(4, 4), (2, 6), (6, 1), (1, 1), (6, 6)]


def mixed_batch(patch: int = PATCH, fill: float = 0.0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Images alone, and together in the top left corners of a batch with their mask."""
    alone = [random_images(1, 3, patch * h, patch * w, seed=h * w) for h, w in GRIDS]
    height, width = max(h for h, _ in GRIDS), max(w for _, w in GRIDS)
    batch = torch.full((len(GRIDS), 3, patch * height, patch * width), fill)
    mask = torch.zeros(len(GRIDS), height, width, dtype=torch.bool)
    for row, (image, (h, w)) in enumerate(zip(alone, GRIDS, strict=True)):
        batch[row, :, : patch * h, : patch * w] = image[0]
        mask[row, :h, :w] = True
    return alone, batch, mask


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@torch.no_grad()
def test_tokens_and_embeddings(config: VisionConfig) -> None:
    tower, prefix = small_tower(config), int(config.class_token)
    alone, batch, mask = mixed_batch(fill=50.0)
    tokens = tower.forward_features(batch, padding_mask=mask)
    together = tower(batch, mask)
    layers = tower.forward_intermediates(
        batch, [0, 2], padding_mask=mask, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    for row, image in enumerate(alone):
        seen = torch.cat([torch.ones(prefix, dtype=torch.bool), mask[row].flatten()])
        assert_close(tokens[row, seen], tower.forward_features(image)[0])
        expected = tower(image)[0]
        assert_close(together[row] if config.output_dim else together[row, seen], expected)
        single = tower.forward_intermediates(
            image, [0, 2], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        for (patches, first), (own_patches, own_first) in zip(layers, single, strict=True):
            assert_close(patches[row, mask[row].flatten()], own_patches[0])
            assert_close(first[row], own_first[0])


def test_gradients() -> None:
    tower = small_tower()
    alone, batch, mask = mixed_batch()
    grads = []
    for embeddings in (tower(batch, mask), torch.cat([tower(image) for image in alone])):
        tower.zero_grad()
        embeddings.square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in tower.parameters()])
    for together, item in zip(*grads, strict=True):
        torch.testing.assert_close(together, item, rtol=1e-3, atol=1e-3)


def rectangle(*changes: tuple[int, int, int]) -> Tensor:
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    for place in changes:
        mask[place] = False
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (rectangle((0, 2, 2)), "rectangle in the top left corner"),
        (torch.zeros(2, 4, 4, dtype=torch.bool), "rectangle in the top left corner"),
        (torch.ones(2, 4, 3, dtype=torch.bool), r"\(2, 4, 3\), must be \(2, 4, 4\)"),
        (torch.ones(2, 16, dtype=torch.bool), r"\(2, 16\), must be \(2, 4, 4\)"),
        (torch.ones(2, 4, 4), "must be boolean"),
    ],
)
def test_masks_that_make_no_sense_are_refused(mask: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        small_tower()(random_images(2, 3, 32, 32), mask)
