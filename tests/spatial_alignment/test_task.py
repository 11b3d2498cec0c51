"""The losses of a batch and the parts of ranks; scores of a student."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from perception_encoder.losses.spatial import token_cosine_loss, token_similarity_loss
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import drawn_from, initialize
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.task import (
    SpatialAlignmentTask,
    SpatialBatch,
    SpatialValidation,
    Student,
    area_under_curve,
    neighbours,
)


def tower(seed: int = 0, width: int = 16, size: int = 32, patch: int = 8) -> VisionTransformer:
    config = VisionConfig(
        image_size=size,
        patch_size=patch,
        width=width,
        depth=2,
        heads=2,
        mlp_width=32,
        attention_pool=False,
        final_norm=False,
    )
    model = VisionTransformer(config)
    initialize(model, torch.Generator().manual_seed(seed))
    return model


def batch(count: int = 4) -> SpatialBatch:
    generator = torch.Generator().manual_seed(1)
    return SpatialBatch(
        images=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        hidden=torch.rand(count, 16, generator=generator) < 0.5,
        branches=None,
        masks=torch.rand(count - 1, 16, 3, generator=generator),
        rows=torch.arange(1, count),
        share=1.0,
        mask_share=1.0,
    )


@torch.no_grad()
def test_losses_are_those_of_the_last_layer_and_of_the_images_with_masks() -> None:
    student, teacher, data = Student(tower(), 16), tower(1), batch()
    config = SpatialConfig(masks="scenes", masks_weight=2.0, pairs_weight=0.5)
    losses = SpatialAlignmentTask(student, teacher, config).losses(data)
    images = to_float(data.images)
    tokens = student.vision.forward_features(images, norm=False, mask=data.hidden, mask_token=torch.zeros(16))[:, 1:]
    taught = teacher.forward_features(images, norm=False)[:, 1:]
    assert float(losses["core"]) == pytest.approx(float(token_cosine_loss(tokens, taught)))
    assert float(losses["pairs"]) == pytest.approx(0.5 * float(token_similarity_loss(tokens, taught, None)))
    assert float(losses["masks"]) == pytest.approx(2 * float(token_similarity_loss(tokens[1:], data.masks, 20.0)))


def test_only_the_student_learns_and_a_copy_that_sees_all_has_no_loss() -> None:
    vision = tower()
    teacher = copy.deepcopy(vision).requires_grad_(False)
    task = SpatialAlignmentTask(Student(vision, 16), teacher, SpatialConfig())
    losses = task.losses(replace(batch(), hidden=None))
    assert float(losses["core"].detach()) == pytest.approx(-1, abs=1e-5)
    sum(task.losses(batch()).values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert vision.conv1.weight.grad is not None


def test_a_teacher_of_another_width_and_patch_is_compared_through_a_linear_map() -> None:
    teacher = tower(2, width=24, size=64, patch=16)  # the same grid at its own size
    with drawn_from(torch.Generator().manual_seed(0)):
        student = Student(tower(), 24)
    losses = SpatialAlignmentTask(student, teacher, SpatialConfig(pairs_weight=1.0)).losses(batch())
    assert losses.keys() == {"core", "pairs"}
    sum(losses.values()).backward()
    assert student.to_teacher.weight.grad is not None


@torch.no_grad()
def test_parts_of_ranks_add_up() -> None:
    task = SpatialAlignmentTask(Student(tower(), 16), tower(1), SpatialConfig(masks="scenes"))
    whole = batch(4)
    parts = []
    for images, masks, rows in ((slice(2), slice(1), [1]), (slice(2, None), slice(1, None), [0, 1])):
        part = replace(whole, images=whole.images[images], hidden=whole.hidden[images], masks=whole.masks[masks])
        parts.append(replace(part, rows=torch.tensor(rows), share=0.5, mask_share=len(rows) / 3))
    losses = task.losses(whole)
    for name in losses:
        assert sum(float(task.losses(part)[name]) for part in parts) == pytest.approx(float(losses[name]), rel=1e-5)


def test_a_part_without_masks_has_no_loss_of_masks() -> None:
    task = SpatialAlignmentTask(Student(tower(), 16), None, SpatialConfig(masks="scenes", core_weight=0))
    losses = task.losses(replace(batch(), masks=None, rows=None, mask_share=0.0))
    assert losses.keys() == {"masks"} and float(losses["masks"].detach()) == 0
    losses["masks"].backward()


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
    assert SpatialValidation.higher_is_better == {"loss": False, "boundary": True, "tracking": True}
    alone = SpatialValidation(KnownLosses(), Known(), batches[2:], (2, 2)).validate("loss")
    assert alone["masks"] == 0 and alone["core"] == pytest.approx(50) and "boundary" not in alone
