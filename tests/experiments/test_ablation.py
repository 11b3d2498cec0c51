"""The ablation and the scaling curves: models and samples of the paper's sizes, and each step changes one thing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from experiments.ablation import RECIPES, STAGES, ablation
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.stages import configure, list_recipes, run_training

BILLION = 1_000_000_000


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_is_built_and_its_resolutions_fit_its_patches(name: str) -> None:
    config = RECIPES[name][1]()
    vision, text = tower_configs(config)
    with torch.device("meta"):
        model = CLIP(vision, text)
    assert sum(weights.numel() for weights in model.parameters()) == vision.parameters + text.parameters + 1
    assert all(stage.image_size % vision.patch_size == 0 for stage in config.stages)
    assert name not in list_recipes()


@pytest.mark.parametrize(
    ("name", "millions", "samples", "steps", "batch", "resolutions"),
    [
        ("ablation_1", 659, 12 * BILLION, 366_211, 32_768, [224]),
        ("ablation_2", 659, 12 * BILLION, 366_211, 32_768, [98, 154, 224]),
        ("ablation_3", 659, 24 * BILLION, 366_211, 65_536, [98, 154, 224]),
        ("ablation_6", 659, 24 * BILLION, 366_211, 65_536, [98, 154, 224, 336]),
        ("ablation_9", 671, 24 * BILLION, 366_211, 65_536, [98, 154, 224, 336]),
        ("vanilla_l14_120k", 659, 4 * BILLION, 120_000, 32_768, [224]),
        ("vanilla_b14", 440, 12 * BILLION, 360_000, 32_768, [224]),
        ("full_b14", 448, 24 * BILLION, 360_000, 65_536, [98, 154, 224, 336]),
        ("full_s14", 87, 24 * BILLION, 360_000, 65_536, [98, 154, 224, 336]),
    ],
)
def test_parameters_samples_and_resolutions(
    name: str, millions: int, samples: int, steps: int, batch: int, resolutions: list[int]
) -> None:
    config = RECIPES[name][1]()
    vision, text = tower_configs(config)
    assert round((vision.parameters + text.parameters) / 1e6) == millions
    assert sum(stage.steps for stage in config.stages) == config.steps == steps
    assert config.steps * config.batch_size == pytest.approx(samples, rel=0.02)
    assert (config.batch_size, [stage.image_size for stage in config.stages]) == (batch, resolutions)


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (2, {"stages"}),
        (3, {"batch_size"}),
        (4, {"optimizer"}),
        (5, {"stages", "image_side"}),
        (6, {"rope"}),
        (7, {"attention_pool"}),
        (8, {"augmentation"}),
        (9, {"masking"}),
    ],
)
def test_a_step_changes_what_it_says_and_nothing_else(step: int, changed: set[str]) -> None:
    before, after = ablation(step - 1), ablation(step)
    fields = (field.name for field in dataclasses.fields(PretrainingConfig))
    assert {name for name in fields if getattr(before, name) != getattr(after, name)} == changed


def test_the_baseline_trains_in_its_debug_form(photos: Path, tmp_path: Path) -> None:
    stage, config = configure("ablation_1", debug=True, stages=STAGES)
    assert run_training(stage, config, [photos], [], tmp_path / "run").weights.exists()
