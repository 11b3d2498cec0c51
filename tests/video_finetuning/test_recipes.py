"""The paper's video finetuning."""

from __future__ import annotations

from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.recipes import find_recipe


def config_of(name: str) -> PretrainingConfig:
    config = find_recipe(name)
    assert isinstance(config, PretrainingConfig)
    return config


def test_one_run_begins_where_another_ends() -> None:
    cooldown, video = config_of("core_l14_cooldown"), config_of("video_finetune_l14")
    assert cooldown.initial == "runs/core_l14/model.safetensors"
    assert video.initial == "runs/distill_l14/model.safetensors"
    assert (video.frames, video.optimizer.lr, video.warmup, video.masking) == (8, 1e-6, 2_000, None)
    assert video.optimizer.name == "lamb" and cooldown.frames is None


def test_the_recipe_in_small_begins_with_the_built_in_model() -> None:
    config = config_of("video_finetune_builtin")
    assert (config.model, config.initial, config.frames) == ("PE-Core-N16-128", "PE-Core-N16-128", 4)
