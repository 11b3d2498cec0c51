"""The weights of the best validated step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from perception_encoder.training.checkpoint import BEST, RunState, save_run, write_best
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from perception_encoder.training.task import ValidationConfig
from tests.training.toys import Regression, batch


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    steps: int = 4


def finished(directory: Path, best_step: int | None) -> Path:
    """A run of four steps."""
    task = Regression()
    optimizer = build_optimizer(task.model, OptimizerConfig(name="adamw"))
    task.losses(batch(0))["error"].backward()
    optimizer.step()
    best = None if best_step is None else 0.5
    save_run(directory, task.model, optimizer, RunState(step=4, fingerprint="a", best=best, best_step=best_step))
    (directory / "model.safetensors").write_bytes(b"last")
    return directory / "model.safetensors"


@pytest.mark.parametrize(("best_step", "content"), [(4, b"last"), (2, b"step 2")])
def test_the_best_step_is_written_or_copied(tmp_path: Path, best_step: int, content: bytes) -> None:
    weights = finished(tmp_path, best_step)
    written = write_best(
        weights, Config(validation=ValidationConfig()), "loss", lambda step, path: path.write_bytes(b"step %d" % step)
    )
    assert (tmp_path / BEST).read_bytes() == content
    assert written == {"best": {"step": best_step, "loss": 0.5}}


def test_nothing_is_written_without_a_validation_or_a_score(tmp_path: Path) -> None:
    weights = finished(tmp_path, None)
    for validation in (None, ValidationConfig()):
        assert write_best(weights, Config(validation=validation), "loss", lambda *_: pytest.fail("written")) == {}
    assert not (tmp_path / BEST).exists()
