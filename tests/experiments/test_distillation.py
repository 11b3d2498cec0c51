"""The distillation in small: a teacher, students with it and alone on the same pairs; nothing is run twice."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from experiments.differences import find_signs
from experiments.distillation import run as reproduction_of_distillation
from experiments.distillation.run import (
    ALONE,
    SEEDS,
    TAUGHT,
    TEACHER,
    Plan,
    compare,
    home_teacher,
    reproduce_distillation,
    student,
)
from experiments.findings import distillation_gaps
from experiments.outcomes import PHOTOS
from experiments.reproduction import ROBUST, Paths
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.pretraining.config import PretrainingConfig
from tests.experiments.conftest import outcomes


def tiny(config: PretrainingConfig) -> PretrainingConfig:
    stages = (ResolutionStage(image_size=32, steps=2),)
    return dataclasses.replace(config, stages=stages, batch_size=8, warmup=1, weights={"flowers": 1})


def test_a_teacher_then_students_and_nothing_twice(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, seeds = Plan(teacher=lambda: tiny(home_teacher()), student=lambda seed: tiny(student(seed))), SEEDS[:2]
    monkeypatch.setattr(reproduction_of_distillation, "SEEDS", seeds)
    result = reproduce_distillation(paths, plan)
    labels = [(run["role"], run["seed"]) for run in result["runs"].values()]
    assert labels == [(TEACHER, 0), *((role, seed) for role in (ALONE, TAUGHT) for seed in seeds)]
    assert json.loads(paths.result.read_text()) == result
    assert len(result["scores"]) == 5 * 2 and len(result["differences"]) == 2 * 2
    key = next(iter(result["runs"]))
    teacher = load_model(paths.runs / key / "model.safetensors")
    scale = next(run["config"]["teacher_logit_scale"] for run in result["runs"].values() if run["role"] == TAUGHT)
    assert scale == pytest.approx(2 * teacher.logit_scale.exp().item(), abs=0.06)
    assert str(paths.runs) not in paths.result.read_text()

    monkeypatch.setattr(reproduction_of_distillation, "pretrain", lambda *_, **__: pytest.fail("run again"))
    assert reproduce_distillation(paths, plan) == result


def test_a_difference_is_claimed_only_where_all_seeds_show_it() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(500) < 0.4
    better = base | (rng.random(500) < 0.2)
    runs = {(TEACHER, 0): outcomes(better)} | {(ALONE, seed): outcomes(base) for seed in SEEDS}
    taught = {(TAUGHT, seed): outcomes(better) for seed in SEEDS}

    def claims(more: dict) -> list[bool]:
        return [sign > 0 for sign in find_signs(distillation_gaps(compare(runs | more))).values()]

    same = {(TEACHER, 0): outcomes(base)} | {(TAUGHT, seed): outcomes(base) for seed in SEEDS}
    assert claims(taught) == [True, True]
    assert claims(taught | {(TAUGHT, 1): outcomes(base)}) == [False, False]
    assert claims(same) == [False, False]  # a teacher that is no better than its student
    assert {d["name"] for d in compare(runs | taught)["differences"]} == {PHOTOS, ROBUST}
