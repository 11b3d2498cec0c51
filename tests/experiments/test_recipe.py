"""The ablation and the recipe in small: what each step changes, runs that are not repeated, claims."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.ablation import RECIPES, STAGES, ablation
from experiments.differences import find_signs
from experiments.distillation.run import SEEDS as STUDENTS
from experiments.distillation.run import TAUGHT, home_teacher, student
from experiments.distillation.run import Plan as DistillationPlan
from experiments.findings import recipe_gaps
from experiments.outcomes import PHOTOS
from experiments.recipe.run import POINTS, SEEDS, compare, reproduce_recipe
from experiments.recipe.steps import FLOPS, nano_step, run_flops
from experiments.reproduction import ROBUST, Paths, over_seeds
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.pretraining.config import PROCEDURE, PretrainingConfig, trained_towers
from perception_encoder.stages import configure, list_recipes
from tests.experiments.conftest import outcomes
from tests.pretraining.toys import debug

BILLION = 1_000_000_000


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_is_built_and_its_resolutions_fit_its_patches(name: str) -> None:
    config = RECIPES[name][1]()
    _, vision, text = trained_towers(config)
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
    _, vision, text = trained_towers(config)
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
    baseline = configure("ablation_1", debug=True, stages=STAGES)
    assert baseline.train([photos], [], tmp_path / "run").weights.exists()


@pytest.mark.parametrize("step", range(1, 10))
def test_every_run_has_the_same_number_of_flops(step: int) -> None:
    assert run_flops(nano_step(step)) == pytest.approx(FLOPS, rel=0.01)


def test_each_step_changes_what_the_paper_changes() -> None:
    def changed(step: int) -> set[str]:
        before, after = (dataclasses.asdict(nano_step(number)) for number in (step - 1, step))
        return {name for name in before if before[name] != after[name]} - {"warmup"}

    assert changed(2) == {"stages"}
    assert changed(3) == {"batch_size", "stages"}
    assert changed(4) == {"optimizer"}
    assert changed(5) == {"stages"}
    assert changed(6) - {"stages"} == {"rope"}  # fewer or more steps keep the FLOPs
    assert changed(7) - {"stages"} == {"attention_pool"}
    assert changed(8) == {"augmentation"}
    assert changed(9) - {"stages"} == {"masking"}
    with pytest.raises(ConfigError, match="step 10"):
        nano_step(10)


def tiny(step: int, seed: int) -> PretrainingConfig:
    """A run of a second that differs between the points."""
    config = nano_step(step, seed)
    stages = (ResolutionStage(image_size=32, steps=2),)
    return dataclasses.replace(
        debug(),
        stages=stages,
        batch_size=8,
        rope=config.rope,
        attention_pool=config.attention_pool,
        seed=seed,
        weights={"flowers": 1},
    )


def recipe(step: int, seed: int) -> PretrainingConfig:
    return dataclasses.replace(tiny(step, seed), keep=step)  # so that no two points are one run


@pytest.mark.usefixtures("warm_pools")
def test_runs_are_cached_and_not_repeated(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.recipe.run.POINTS", (1, 9))
    monkeypatch.setattr("experiments.recipe.run.SEEDS", (0,))
    result = reproduce_recipe(paths, recipe, jobs=2)
    assert [(run["step"], run["seed"]) for run in result["runs"].values()] == [(1, 0), (9, 0)]
    assert {run["procedure"] for run in result["runs"].values()} == {PROCEDURE}
    assert len(result["scores"]) == 2 * 8  # runs x (seven sets and robustness)
    assert json.loads(paths.result.read_text()) == result
    tower = load_model(paths.result.parent / "towers" / "nano_step1.safetensors")
    assert isinstance(tower, VisionTransformer)
    assert not tower.config.rope
    assert tower.config.image_size == 32
    monkeypatch.setattr("experiments.recipe.run.pretrain", lambda *_, **__: pytest.fail("a run was repeated"))
    assert reproduce_recipe(paths, recipe) == result


def test_a_difference_is_claimed_only_where_both_seeds_show_it() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(500) < 0.4
    better = base | (rng.random(500) < 0.2)
    runs = {(step, seed): outcomes(base) for step in POINTS for seed in SEEDS}
    somewhat = base | (np.cumsum(~base) <= 20)
    runs |= {(9, 0): outcomes(better), (9, 1): outcomes(better), (5, 0): outcomes(somewhat)}
    signs = find_signs(recipe_gaps(compare(runs)))
    claims = {key for key, sign in signs.items() if sign > 0}
    assert claims == {("1", "9", PHOTOS), ("1", "9", ROBUST), ("7", "9", PHOTOS), ("7", "9", ROBUST)}
    assert signs["1", "5", PHOTOS] == 0  # one seed alone


def rows_of(by_seed: Sequence[float], half: float = 0.0) -> list[dict[str, Any]]:
    return [{"value": value, "interval": [value - half, value + half], "n": 10_000} for value in by_seed]


def claim(gaps: Sequence[Mapping[str, Any]], *kinds: Sequence[float]) -> int:
    """The sign of a difference of the second of two kinds of run less the first."""
    every = [rows_of(kind) for kind in kinds]
    return find_signs({"only": over_seeds(gaps, every[1], every[0], every)})["only"]


def test_seeds_that_disagree_are_no_claim_though_each_interval_excludes_zero() -> None:
    """Seeds of training are in the interval: +1.6 and +9.0, each ± 0.8 over images, may be chance of the training."""
    gaps = rows_of((0.016, 0.09), 0.008)
    assert claim(gaps, (0, 0), (0.016, 0.09)) == 0 and claim(gaps[:1], (0,), (0.016,)) == 0
    close, page_kinds = rows_of((0.07, 0.088), 0.014), [(0, 0), (0.07, 0.088), (0.08, 0.08), (-0.01, -0.02)]
    assert claim(close, *page_kinds) == 1
    every = [rows_of(kind) for kind in page_kinds]
    gap = over_seeds(close, every[1], every[0], every)
    assert gap.value == pytest.approx(0.079) and gap.interval is not None
    assert gap.interval[0] < 0.079 - 0.014 and gap.interval[1] > 0.079 + 0.014
    assert claim(close, *page_kinds[:3], (-0.09, 0.09)) == 0  # the seeds of another row disagree


@pytest.mark.parametrize("kinds", [2, 4])
@pytest.mark.parametrize("ratio", [2.0, 5.0])
def test_a_difference_that_is_not_there_is_seldom_claimed_from_two_seeds(kinds: int, ratio: float) -> None:
    """`ratio`: the standard deviation of a difference over seeds in that over images, which both seeds share."""
    rng, trials, wrong = np.random.default_rng(0), 500, 0
    for _ in range(trials):
        by_seed = ratio / 2**0.5 * rng.normal(size=(kinds, 2)) + rng.normal(size=2)  # seeds alike for all kinds, too
        by_seed[1] += rng.normal()
        gaps = rows_of((by_seed[1] - by_seed[0]).tolist(), 1.96)
        wrong += claim(gaps, *by_seed.tolist()) != 0
    assert wrong / trials <= 0.06


def test_the_recipe_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "recipe.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    runs = {nano_step(step, seed).fingerprint() for step in POINTS for seed in SEEDS}
    assert result["runs"].keys() == runs, "run: python -m experiments.recipe"


def test_its_towers_are_those_of_its_ends(root: Path) -> None:
    for step in (POINTS[0], POINTS[-1]):
        tower = load_model(root / "experiments" / "towers" / f"nano_step{step}.safetensors")
        config = nano_step(step)
        assert isinstance(tower, VisionTransformer)
        assert (tower.name, tower.config.image_size) == (BUILTIN, config.stages[-1].image_size)
        assert (tower.config.rope, tower.config.attention_pool) == (config.rope, config.attention_pool)


def test_distillation_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "distillation.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    teacher = home_teacher().fingerprint()
    (scale,) = {run["config"]["teacher_logit_scale"] for run in result["runs"].values() if run["role"] == TAUGHT}
    taught = {DistillationPlan().taught(seed, teacher, scale).fingerprint() for seed in STUDENTS}
    runs = {teacher} | {student(seed).fingerprint() for seed in STUDENTS} | taught
    assert result["runs"].keys() == runs, "run: python -m experiments.distillation"
