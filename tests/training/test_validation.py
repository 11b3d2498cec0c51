"""The loop validates: when it is due, which step is the best, and what a resumed run knows of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.training.checkpoint import find_checkpoints, load_weights
from perception_encoder.training.config import ValidationConfig
from perception_encoder.training.loop import Section, choose_metric, train_steps
from tests.training.test_loop import CONFIG, Killed, Regression, batch, losses_of

EVERY_FOURTH = ValidationConfig(every=4)


class AlwaysTraining(Regression):
    """A task whose model must be in training mode whenever losses are computed."""

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        assert self.model.training and torch.is_grad_enabled()
        return super().losses(batch)


class Distance:
    """How far a task's weights are from 0.6: some way down the training is the nearest."""

    higher_is_better: ClassVar = {"distance": False, "step": True}

    def __init__(self, task: Regression) -> None:
        self.task, self.steps = task, list[int]()

    def validate(self, metric: str) -> dict[str, float]:
        assert metric in self.higher_is_better
        assert not self.task.model.training and not torch.is_grad_enabled()
        self.steps.append(self.task.steps_seen)
        return {"distance": (self.task.model.weight - 0.6).abs().mean().item(), "step": float(self.task.steps_seen)}


def run(directory: Path, stop_at: int | None = None, **changes: object) -> tuple[Regression, Distance]:
    """Train with a validation; `stop_at` kills the run as it asks for the batch of that step."""
    task = AlwaysTraining()
    task.validation = validation = Distance(task)

    def batch_or_kill(step: int) -> Tensor:
        if step == stop_at:
            raise Killed
        return batch(step)

    config = dataclasses.replace(CONFIG, **{"keep": 1, "validation": EVERY_FOURTH, **changes})
    try:
        train_steps(Section(task, batch_or_kill), config, directory, "a")
    except Killed:
        assert stop_at is not None
    return task, validation


def scores(directory: Path) -> dict[int, float]:
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["validation/distance"] for row in rows if "validation/distance" in row}


def test_scores_are_reported_and_the_best_step_s_checkpoint_stays(tmp_path: Path) -> None:
    task, validation = run(tmp_path)
    assert validation.steps == [4, 8, 12, 16, 20, 24, 28, 30] and list(scores(tmp_path)) == validation.steps
    best_step = min(scores(tmp_path), key=scores(tmp_path).__getitem__)
    assert 4 < best_step < 30 and best_step % CONFIG.checkpoint_every  # no checkpoint would be due then
    checkpoints = [state for _, state in find_checkpoints(tmp_path)]
    assert [state.step for state in checkpoints] == [30, best_step]
    assert all((state.best, state.best_step) == (scores(tmp_path)[best_step], best_step) for state in checkpoints)
    last = task.model.weight.clone()
    load_weights(tmp_path, best_step, task.model)
    assert (task.model.weight - 0.6).abs().mean().item() == scores(tmp_path)[best_step]
    assert not torch.equal(task.model.weight, last)


def test_training_is_the_same_without_it(tmp_path: Path) -> None:
    with_it, _ = run(tmp_path / "with")
    without = Regression()
    train_steps(Section(without, batch), CONFIG, tmp_path / "without", "a")
    rows = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows if "error" in row] == losses_of(tmp_path / "without")
    assert torch.equal(with_it.model.weight, without.model.weight)
    assert not any("validation" in line for line in (tmp_path / "without" / "metrics.jsonl").read_text().splitlines())
    assert {state.best for _, state in find_checkpoints(tmp_path / "without")} == {None}


def test_the_metric_is_any_that_the_task_brings(tmp_path: Path) -> None:
    """The first by default; of steps, the last one is the best."""
    assert choose_metric(EVERY_FOURTH, Distance.higher_is_better) == "distance"
    run(tmp_path / "by step", validation=ValidationConfig(every=4, metric="step"))
    assert {(state.best, state.best_step) for _, state in find_checkpoints(tmp_path / "by step")} == {(30.0, 30)}
    with pytest.raises(ConfigError, match=r"validation\.metric is 'accuracy'"):
        run(tmp_path / "unknown", validation=ValidationConfig(metric="accuracy"))
    with pytest.raises(ConfigError, match="the task has none; set validation=null"):
        train_steps(
            Section(Regression(), batch), dataclasses.replace(CONFIG, validation=EVERY_FOURTH), tmp_path / "none", "a"
        )
    assert [path.parent.name for path in tmp_path.glob("*/metrics.jsonl")] == ["by step"]  # before any step


@pytest.mark.parametrize("stops", [(9, 10, 14), (4, 8, 12, 16, 20, 24, 28)])
def test_a_killed_and_resumed_run_has_the_best_of_an_uninterrupted_one(tmp_path: Path, stops: tuple[int, ...]) -> None:
    run(tmp_path / "whole")
    for stop in (*stops, None):
        run(tmp_path / "broken", stop)
    assert scores(tmp_path / "broken") == scores(tmp_path / "whole")
    whole, broken = (
        [(state.step, state.best, state.best_step) for _, state in find_checkpoints(tmp_path / name)]
        for name in ("whole", "broken")
    )
    assert whole == broken
    ours, theirs = Regression(), Regression()
    load_weights(tmp_path / "whole", whole[0][2], ours.model)
    load_weights(tmp_path / "broken", whole[0][2], theirs.model)
    assert torch.equal(ours.model.weight, theirs.model.weight)


def test_a_best_checkpoint_that_cannot_be_written_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "whole")
    best_step = min(scores(tmp_path / "whole"), key=scores(tmp_path / "whole").__getitem__)
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if target.name == f"step-{best_step:08d}":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    run(tmp_path / "full")
    assert "training continues" in caplog.text
    second = min((value, step) for step, value in scores(tmp_path / "full").items() if step != best_step)
    assert {(state.best, state.best_step) for _, state in find_checkpoints(tmp_path / "full")} == {second}
