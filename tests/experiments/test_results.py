"""The results of the experiments in small are of the runs that the recipes are today."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.distillation.run import SEEDS as STUDENTS
from experiments.distillation.run import TAUGHT, home_teacher, student
from experiments.distillation.run import Plan as DistillationPlan
from experiments.recipe.run import POINTS, SEEDS
from experiments.recipe.steps import nano_step
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.registry import BUILTIN
from perception_encoder.models.vision_transformer import VisionTransformer


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
