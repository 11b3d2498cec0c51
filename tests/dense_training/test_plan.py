"""Plans of the training of heads."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.dense_prediction.dense_model import WindowConfig
from perception_encoder.dense_training.config import DetectorConfig
from perception_encoder.dense_training.plan import plan_dense
from perception_encoder.errors import ConfigError
from perception_encoder.planning.cluster import Cluster, TrainingPlan
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


def devices(count: int) -> Cluster:
    return Cluster(device=find_device("h100"), devices=count)


def small_plan(config: DetectorConfig, count: int = 1, **changes: object) -> TrainingPlan:
    """The plan of a recipe on a small encoder."""
    windows = WindowConfig(size=24, global_blocks=(11,))
    changed = {"encoder": "PE-Core-S16-384", "windows": windows, **changes}
    return plan_dense(dataclasses.replace(config, **changed), devices(count))  # type: ignore[arg-type]


def test_a_plan_of_deta() -> None:
    """The head's linear layers see every patch of the pyramid in the encoder, and every query in the decoder."""
    config = find_recipe("detr_spatial_g14_1")
    assert isinstance(config, DetectorConfig)

    def flops(**changes: object) -> float:
        """Of an image's forward pass, and so of a third of a step."""
        plan = small_plan(config, head=dataclasses.replace(config.head, **changes))
        return plan.stages[0].flops / plan.stages[0].samples / 3

    tokens = sum(max(1, -(-128 // 2**level)) ** 2 for level in range(5))
    sampling = 256 * (2 * 256 + 8 * 5 * 4 * 3)  # weights of values and output, of offsets and of their factors
    encoder, decoder = sampling + 2 * 256 * 2048, sampling + 4 * 256**2 + 2 * 256 * 2048
    queries, attention = 900, 2 * 900**2 * 256
    layer = 2 * (tokens * encoder + queries * decoder + tokens * 256**2 + attention)
    whole, more = flops(), flops(queries=1800)
    assert whole - flops(layers=5) == pytest.approx(layer, rel=0.02)
    assert more - whole == pytest.approx(2 * 6 * (queries * decoder + 3 * attention), rel=0.1)


def test_the_memory_of_a_plan() -> None:
    config = find_recipe("detector_spatial_l14")
    assert isinstance(config, DetectorConfig)
    one, eight = small_plan(config), small_plan(config, 8)
    parameters = one.parameters
    assert one.memory["weights"] == one.memory["gradients"] == 4 * parameters == 8 * eight.memory["weights"]
    assert one.memory["optimizer"] == 2 * 4 * parameters  # AdamW's two averages
    assert one.memory["bf16 copies"] == eight.memory["bf16 copies"] == 2 * parameters
    assert one.memory["images"] == 2 * 64 * 3 * 4 * 1024**2 == 8 * eight.memory["images"]
    assert one.memory["head"] == 64 * 64**2 * 16 * 256 * 24 * 2 and "frozen encoder" not in one.memory
    memory = small_plan(config, frozen=True, drop_path=0.0, optimizer=OptimizerConfig()).memory
    assert memory["frozen encoder"] + memory["weights"] == 4 * parameters
    assert memory["optimizer"] == 2 * memory["weights"] and memory["frozen encoder"] > 4 * 20e6
    assert memory["activations"] < one.memory["activations"]
    with pytest.raises(ConfigError, match="a batch of 64 cannot be shared by 65 devices"):
        small_plan(config, 65)


def test_heads_are_planned_by_their_task() -> None:
    """Of a mask head a quarter of the regions is counted."""
    config = find_recipe("detector")
    assert isinstance(config, DetectorConfig)
    flops = {
        masks: plan_dense(dataclasses.replace(config, masks=masks), devices(1)).stages[0] for masks in (True, False)
    }
    layer = 2 * 128 * 128 * 9 * 14 * 14 * (128 // 4)
    per_image = (flops[True].flops - flops[False].flops) / (config.steps * config.batch_size)
    assert per_image == pytest.approx(3 * 4 * layer)
    agnostic = plan_dense(dataclasses.replace(config, class_agnostic=True), devices(1))
    assert agnostic.stages[0].flops == flops[False].flops
    for name in ("depth", "segmenter", "detr"):
        assert plan_dense(find_recipe(name), devices(1)).stages[0].flops > 0
