"""The cost of a distillation."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import find_model
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.cost import text_cost, vision_cost
from perception_encoder.planning.devices import find_device
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.mixing import Mixing
from perception_encoder.pretraining.plan import plan_pretraining
from perception_encoder.recipes import find_recipe, plan_recipe


def test_the_teacher_s_passes_are_planned() -> None:
    """Once a pair; of what is remembered once for each, where pictures are neither augmented nor mixed."""
    cluster = Cluster(device=find_device("h100"), devices=8)
    config = find_recipe("distill_b16")
    teacher = find_model(config.teacher)
    beside = vision_cost(teacher.vision).forward + text_cost(teacher.text).forward

    def added(config: DistillationConfig) -> float:
        stage, alone = plan_recipe(config, cluster).stages[0], plan_pretraining(config, cluster).stages[0]
        return (stage.flops - alone.flops) / stage.samples

    assert added(config) == pytest.approx(beside)
    half = dataclasses.replace(config, remember=config.samples)
    assert added(half) == pytest.approx(beside / 2)
    assert added(dataclasses.replace(config, remember=9 * config.samples)) == pytest.approx(beside)
    for change in ({"augmentation": Augmentation()}, {"mixing": Mixing()}):
        drawn = dataclasses.replace(half, **change)
        assert added(drawn) == pytest.approx(vision_cost(teacher.vision).forward + text_cost(teacher.text).forward / 2)
    with pytest.raises(ConfigError, match="the teacher is PE-Spatial-T16-512, which has no text tower"):
        plan_recipe(dataclasses.replace(config, teacher="PE-Spatial-T16-512"), cluster)
