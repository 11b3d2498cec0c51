"""Plans of the training of heads."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.dense_training.config import DetectorConfig
from perception_encoder.dense_training.plan import plan_dense
from perception_encoder.errors import ConfigError
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.devices import find_device
from perception_encoder.recipes import find_recipe
from perception_encoder.train.optimizer import OptimizerConfig


def test_a_plan_of_vitdet() -> None:
    config = find_recipe("detector_spatial_l14")
    assert isinstance(config, DetectorConfig)
    plan = plan_dense(config, Cluster(device=find_device("h100"), devices=8))
    (stage,) = plan.stages
    per_image = stage.flops / stage.samples
    tokens, parameters = (1024 // 16) ** 2, 304e6
    assert 6 * tokens * parameters < per_image < 2 * 6 * tokens * parameters  # matrix products, and the rest
    assert stage.executed > stage.flops and plan.parameters > 300e6
    frozen = plan_dense(
        dataclasses.replace(config, frozen=True, drop_path=0.0, optimizer=OptimizerConfig()), plan.cluster
    )
    assert frozen.stages[0].flops < 0.6 * stage.flops
    assert sum(frozen.memory.values()) < sum(plan.memory.values())
    with pytest.raises(ConfigError, match="plans know the models of this package"):
        plan_dense(dataclasses.replace(config, encoder="timm:vit_base_patch16_224"), plan.cluster)
