"""Scores of a student: edges, and the area under the curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from perception_encoder.spatial_alignment.task import SpatialBatch, SpatialValidation, area_under_curve, neighbours
from perception_encoder.training.task import is_better


def test_the_area_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, 60).astype(np.float32)  # with ties
    positive = generator.random(60) < 0.3 + 0.05 * scores
    expected = roc_auc_score(positive, scores)
    assert area_under_curve(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(expected)


def test_neighbours_are_compared_to_the_right_and_below() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])[None]  # rows (a, b), (c, d)
    half = 2**-0.5
    expected = torch.tensor([[0.0, half, 1.0, half]])  # ab, cd, ac, bd
    torch.testing.assert_close(neighbours(tokens, (2, 2)), expected)


class Known(nn.Module):
    """A student whose tokens are its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = images.flatten(2).transpose(1, 2)
        return tokens, tokens


class KnownLosses:
    """A task whose loss is the brightness of the images, or of those with masks."""

    def losses(self, batch: SpatialBatch) -> dict[str, Tensor]:
        core = batch.images.float().mean()
        if batch.rows is None:
            return {"core": core, "masks": torch.zeros(())}
        return {"core": core, "masks": batch.images[batch.rows].float().mean()}


def validation_batch(values: list[int], masked: list[int], tokens: list[list[float]]) -> SpatialBatch:
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).clone()
    images[:, 0, :, 1] = 0  # left and right differ in colour
    masks = torch.tensor(tokens)[None].expand(len(masked), 4, 2) if masked else None
    return SpatialBatch(images=images, share=1.0, masks=masks, rows=torch.tensor(masked) if masked else None)


class Blind(Known):
    """A student whose tokens are alike just where they should differ."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]).expand(len(images), 4, 2)
        return tokens, tokens


def test_the_better_student_has_the_better_scores() -> None:
    """Of two checkpoints, the one that loses less or that sees edges is kept."""
    sides = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]

    def scores(student: nn.Module, value: int) -> dict[str, float]:
        return SpatialValidation(KnownLosses(), student, [validation_batch([value], [0], sides)], (2, 2)).validate("")

    good, bad = scores(Known(), 12), scores(Blind(), 24)
    for metric in ("loss", "boundary"):
        assert is_better(good[metric], bad[metric], SpatialValidation.higher_is_better[metric]), metric
    assert SpatialValidation.higher_is_better["tracking"], "J&F of perfect masks is 1"


def test_losses_are_means_over_all_images_and_over_those_with_masks() -> None:
    """Batches of several sizes, one without masks; the mean of an image of v is 5 v / 6."""
    sides = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    batches = [
        validation_batch([12, 24, 36], [1], sides),
        validation_batch([60], [0], sides),
        validation_batch([120, 0], [], sides),
    ]
    validation = SpatialValidation(KnownLosses(), Known(), batches, (2, 2))
    assert math.isnan(SpatialValidation(KnownLosses(), Known(), [], (2, 2)).validate("loss")["loss"])  # no best step
    scores = validation.validate("loss")
    core, masks = 5 / 6 * (12 + 24 + 36 + 60 + 120 + 0) / 6, 5 / 6 * (24 + 60) / 2
    assert scores["core"] == pytest.approx(core) and scores["masks"] == pytest.approx(masks)
    assert scores["loss"] == pytest.approx(core + masks)
    assert scores["boundary"] == 1, "all pairs across the edge are less alike than those on one side"
    alone = SpatialValidation(KnownLosses(), Known(), batches[2:], (2, 2)).validate("loss")
    assert alone["masks"] == 0 and alone["core"] == pytest.approx(50) and "boundary" not in alone
