"""The paper's distillation."""

from __future__ import annotations

import pytest

from perception_encoder.models.registry import find_model
from perception_encoder.recipes import find_recipe


@pytest.mark.parametrize("name", ["l14", "b16", "s16", "t16"])
def test_the_papers_distillation(name: str) -> None:
    config = find_recipe(f"distill_{name}")
    assert config.steps * config.batch_size == pytest.approx(4.4e9, rel=0.01)
    assert (config.batch_size, config.warmup, config.optimizer.lr) == (16_384, 2_000, 1e-6)
    assert (config.optimizer.name, config.optimizer.betas, config.optimizer.weight_decay) == ("lamb", (0.9, 0.95), 0.05)
    assert (config.teacher, config.teacher_logit_scale, config.contrastive_weight) == ("PE-Core-G14-448", 200.0, 0.0)
    assert config.augmentation is None and config.masking is None
    assert [stage.image_size for stage in config.stages] == [find_model(config.model).vision.image_size]
