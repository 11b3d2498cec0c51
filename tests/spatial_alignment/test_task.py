"""The losses of a batch, and the parts of ranks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from perception_encoder.losses.spatial import token_cosine_loss, token_similarity_loss
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import drawn_from, initialize
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch, Student


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
    parts = [
        replace(
            whole,
            images=whole.images[:2],
            hidden=whole.hidden[:2],
            masks=whole.masks[:1],
            rows=torch.tensor([1]),
            share=0.5,
            mask_share=1 / 3,
        ),
        replace(
            whole,
            images=whole.images[2:],
            hidden=whole.hidden[2:],
            masks=whole.masks[1:],
            rows=torch.tensor([0, 1]),
            share=0.5,
            mask_share=2 / 3,
        ),
    ]
    losses = task.losses(whole)
    for name in losses:
        assert sum(float(task.losses(part)[name]) for part in parts) == pytest.approx(float(losses[name]), rel=1e-5)


def test_a_part_without_masks_has_no_loss_of_masks() -> None:
    task = SpatialAlignmentTask(Student(tower(), 16), None, SpatialConfig(masks="scenes", core_weight=0))
    losses = task.losses(replace(batch(), masks=None, rows=None, mask_share=0.0))
    assert losses.keys() == {"masks"} and float(losses["masks"].detach()) == 0
    losses["masks"].backward()
