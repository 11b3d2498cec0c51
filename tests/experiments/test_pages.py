"""The pages of the experiments in small are those that their JSON makes, of the runs that the recipes are today."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.dense import page as dense_page
from experiments.distillation import page as distillation_page
from experiments.distillation.run import SEEDS as STUDENTS
from experiments.distillation.run import TAUGHT, home_teacher, student
from experiments.distillation.run import Plan as DistillationPlan
from experiments.language import builtin as builtin_language
from experiments.language import page as language_page
from experiments.layers import page as layers_page
from experiments.recipe import page as recipe_page
from experiments.recipe.run import POINTS, SEEDS
from experiments.recipe.steps import nano_step
from experiments.spatial import page as spatial_page
from experiments.video import page as video_page
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.registry import BUILTIN
from perception_encoder.models.vision_transformer import VisionTransformer


def test_the_recipe_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "recipe.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    runs = {nano_step(step, seed).fingerprint() for step in POINTS for seed in SEEDS}
    assert result["runs"].keys() == runs, "run: python -m experiments.recipe"
    assert results.with_suffix(".md").read_text(encoding="utf-8") == recipe_page.page(result, "recipe.png")


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
    assert results.with_suffix(".md").read_text(encoding="utf-8") == distillation_page.page(result)


def test_the_layers_in_small(root: Path) -> None:
    """The page and its JSON come together; until `python -m experiments.layers` was run there is neither."""
    results = root / "docs" / "results" / "layers.json"
    assert results.is_file() == results.with_suffix(".md").is_file() == results.with_suffix(".png").is_file()
    if results.is_file():
        result = json.loads(results.read_text(encoding="utf-8"))
        assert results.with_suffix(".md").read_text(encoding="utf-8") == layers_page.page(result, "layers.png")


def test_the_builtin_language_model(root: Path) -> None:
    results = root / "docs" / "results" / "builtin_language.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == builtin_language.page(result)


def test_language_in_small(root: Path) -> None:
    """The page and its JSON come together; until `python -m experiments.language` was run there is neither."""
    results = root / "docs" / "results" / "language.json"
    assert results.is_file() == results.with_suffix(".md").is_file() == results.with_suffix(".png").is_file()
    if results.is_file():
        result = json.loads(results.read_text(encoding="utf-8"))
        assert results.with_suffix(".md").read_text(encoding="utf-8") == language_page.page(result, "language.png")


def test_spatial_alignment_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "spatial.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == spatial_page.page(result, "spatial.png")
    assert results.with_suffix(".png").is_file() and results.with_name("spatial_features.png").is_file()


def test_dense_tasks_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "dense.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == dense_page.page(result, "dense.png")
    assert results.with_suffix(".png").is_file()


def test_video_finetuning_in_small(root: Path) -> None:
    results = root / "docs" / "results" / "video.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == video_page.page(result, "video.png")
    assert results.with_suffix(".png").is_file()
