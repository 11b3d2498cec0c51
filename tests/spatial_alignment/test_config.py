"""Settings, recipes and plans of spatial alignment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.spatial_alignment.config import BlockMasking, SpatialConfig
from perception_encoder.spatial_alignment.recipes import (
    debug_spatial,
    distill_spatial,
    plan_spatial,
    spatial_builtin,
    spatial_g,
)
from perception_encoder.spatial_alignment.run import SpatialTrainee
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch
from perception_encoder.training.optimizer import OptimizerConfig


def test_a_run_needs_a_loss() -> None:
    for settings in ({"core_weight": 0.0}, {"core_weight": 0.0, "masks": "scenes", "masks_weight": 0.0}):
        with pytest.raises(ConfigError, match="all losses are off"):
            SpatialConfig(**settings)  # type: ignore[arg-type]


def test_three_quarters_are_hidden_in_blocks_of_two_by_two() -> None:
    hidden = BlockMasking().draw(5, (8, 12), torch.Generator().manual_seed(0))
    assert hidden.shape == (5, 96) and hidden.sum(1).tolist() == [72] * 5
    blocks = hidden.view(5, 4, 2, 6, 2).transpose(2, 3).flatten(3)
    assert (blocks.all(-1) | ~blocks.any(-1)).all()
    assert len({tuple(row.tolist()) for row in hidden}) == 5


def test_a_grid_that_is_no_multiple_of_the_block_has_smaller_blocks_at_its_edges() -> None:
    hidden = BlockMasking(share=0.5, block=2).draw(1, (3, 3), torch.Generator().manual_seed(1)).view(3, 3)
    assert hidden[0, 0] == hidden[0, 1] == hidden[1, 0] == hidden[1, 1]
    assert hidden[2, 0] == hidden[2, 1] and hidden[0, 2] == hidden[1, 2]


def test_recipes_are_the_papers() -> None:
    config = spatial_g()
    assert (config.steps * config.batch_size, config.image_size) == (294_912_000, 448)
    lamb = OptimizerConfig(name="lamb", lr=5e-4, betas=(0.9, 0.95), weight_decay=0.05, decay_all=False)
    for paper in (config, *map(distill_spatial, ("l14", "b16", "s16", "t16"))):
        assert (paper.optimizer, paper.warmup, paper.drops, paper.half) == (lamb, 0, (), False)
        assert paper.augmentation == Augmentation() and (paper.core_weight, paper.masks_weight) == (1, 1)
    assert spatial_builtin().half  # for use
    student = distill_spatial("b16")
    assert (student.layer_scale, student.drop_path, student.masking, student.masks) == (None, 0, None, None)
    assert (config.drop_path, config.layer_scale, config.teacher_layer, config.temperature) == (0.4, 0.1, 40, 20)
    assert config.masking is not None and (config.masking.share, config.masking.block) == (0.75, 2)
    for recipe in (config, distill_spatial("b16"), spatial_builtin()):
        small = debug_spatial(recipe)
        assert small.steps == 4 and small.model == BUILTIN and bool(small.pairs_weight) == bool(recipe.pairs_weight)


@pytest.mark.parametrize("size", ["l14", "b16", "s16", "t16"])
def test_students_have_the_teachers_grid_of_patches(size: str) -> None:
    config = distill_spatial(size)
    assert config.teacher is not None and config.image_size is not None
    teacher, student = (find_model(name).vision for name in (config.teacher, config.model))
    assert config.image_size // student.patch_size == teacher.image_size // teacher.patch_size == 32


def test_operations_are_those_that_are_counted() -> None:
    config = SpatialConfig(image_size=64, teacher_layer=8, layer_scale=None, masking=None, drop_path=0.0)
    trainee = SpatialTrainee(config)
    task = SpatialAlignmentTask(trainee.student, trainee.teacher, config)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    batch = SpatialBatch(images=images, share=1.0)
    with FlopCounterMode(display=False) as counter:
        task.losses(batch)["core"].backward()
    (phase,), _ = plan_spatial(config)
    assert counter.get_total_flops() == pytest.approx(2 * phase.flops() / phase.batch_size, rel=0.02)


def test_the_planned_towers_are_those_that_are_trained() -> None:
    config = SpatialConfig(image_size=64, teacher_layer=8)
    trainee = SpatialTrainee(config)
    assert trainee.teacher is not None
    parts = plan_spatial(config)[0][0].parts
    for part, model in zip(parts, (trainee.student.vision, trainee.teacher), strict=True):
        assert part.parameters == sum(parameter.numel() for parameter in model.parameters())
    ((phase,), assumed) = plan_spatial(replace(config, core_weight=0.0, masks="sam"))
    assert len(phase.parts) == 1 and "not counted" in assumed and phase.losses > 0
    with pytest.raises(ConfigError, match="a batch of 2 cannot be shared by 4"):
        plan_spatial(replace(config, batch_size=2), 4)
