"""Recipes of heads."""

from __future__ import annotations

import pytest

from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_training.config import DetectorConfig
from perception_encoder.dense_training.recipes import VITDET
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import MODELS
from tests.recipes import find_recipe


@pytest.mark.parametrize("name", VITDET)
def test_vitdets_recipes_are_the_papers(name: str) -> None:
    config = find_recipe(f"detector_{name}")
    assert isinstance(config, DetectorConfig) and config.windows is not None and config.encoder in MODELS
    assert (config.image_size, config.scales, config.batch_size, config.warmup) == (1024, (0.1, 2.0), 64, 250)
    assert (config.windows.size, config.windows.patch_size, config.optimizer.weight_decay) == (32, 16, 0.1)
    large = name.endswith("g14")
    expected = (5e-5, 0.9, 0.5, 50) if large else (1e-4, 0.8, 0.4, 24)
    depth = MODELS[config.encoder].vision.depth
    assert (config.optimizer.lr, config.optimizer.layer_decay, config.drop_path, depth) == expected
    steps = {"core_g14": 138_281, "spatial_g14": 66_375}.get(name, 184_375)
    assert (config.steps, config.optimizer.decay_all, config.optimizer.max_grad_norm) == (steps, True, None)
    assert (config.windows.tile or MODELS[config.encoder].vision.grid) == 32
    assert config.windows.global_blocks[-1] == depth - 1 and len(config.windows.global_blocks) == 4
    assert [drop * 184_375 for drop in config.drops] == pytest.approx([163_889, 177_546])  # the released configs'
    frozen = find_recipe(f"detector_{name}_frozen")
    assert isinstance(frozen, DetectorConfig) and frozen.frozen and not frozen.drop_path
    assert round(frozen.steps * 64 / 118_287) == 15 and frozen.windows == config.windows


@pytest.mark.parametrize("family", ["core", "spatial"])
def test_lvis_is_learned_by_the_federated_loss(family: str) -> None:
    config = find_recipe(f"detector_{family}_g14_lvis")
    assert isinstance(config, DetectorConfig) and config.repeat_threshold == 1e-3
    assert (config.head.federated, config.head.least_score, config.head.most) == (50, 0.02, 300)
    assert config.steps == 138_281


def test_detas_stages_are_the_papers() -> None:
    stages = [find_recipe(f"detr_spatial_g14_{number}") for number in range(1, 5)]
    assert [stage.image_size for stage in stages] == [1024, 1536, 1728, 1824]
    assert [stage.batch_size for stage in stages] == [256, 128, 64, 64]
    assert [stage.optimizer.lr for stage in stages] == [2e-4, 5e-5, 5e-5, 5e-3]
    assert [stage.optimizer.name for stage in stages] == ["adamw", "adamw", "adamw", "sgd"]
    assert [
        round(stage.steps * stage.batch_size / images)
        for stage, images in zip(stages, (1_742_289,) * 2 + (118_287,) * 2, strict=True)
    ] == [12, 6, 12, 3]
    for number, stage in enumerate(stages, start=1):
        assert (stage.optimizer.max_grad_norm, stage.optimizer.decay_all) == (0.1, True)
        assert stage.optimizer.slow == ("sampling_offsets", "reference_points")
        assert isinstance(stage.head, DetrHeadConfig) and (stage.head.queries, stage.windows.tile) == (900, 24)
        assert (stage.warmup, stage.scales) == (0, None)  # the scripts have no warm-up, and DETR's augmentation
        assert stage.initial == (None if number == 1 else f"runs/detr_spatial_g14_{number - 1}/head.safetensors")


def test_bad_settings_of_a_detector() -> None:
    with pytest.raises(ConfigError, match=r"scales is \[2, 1\]; the smaller one must be first"):
        DetectorConfig(scales=(2, 1))
    with pytest.raises(ConfigError, match=r"a DETR has no masks; set masks=false"):
        DetectorConfig(head=DetrHeadConfig())
    assert not DetectorConfig(head=DetrHeadConfig(), masks=False).masks
