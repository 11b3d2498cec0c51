"""Recipes of spatial alignment."""

from __future__ import annotations

import pytest

from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.spatial_alignment.recipes import (
    debug_spatial,
    distill_spatial,
    spatial_builtin,
    spatial_g,
)


def test_recipes_are_the_papers() -> None:
    config = spatial_g()
    assert (config.steps * config.batch_size, config.image_size) == (294_912_000, 448)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == ("lamb", 5e-4, 0.05)
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
