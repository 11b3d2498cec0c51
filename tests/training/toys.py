"""A regression to train, for tests of the loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from perception_encoder.models.initialization import torch_generator
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.optimizer import OptimizerConfig
from tests import processes
from tests.processes import pe


class Interrupted(Exception):
    """A run was stopped."""


def interrupt_at(step: int) -> Callable[[dict[str, float]], None]:
    """Return a listener that stops a run when it reports this step."""

    def stop(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Interrupted

    return stop


class Regression:
    """Fit a linear map; its batch is a pure function of the step."""

    validation = None

    def __init__(self) -> None:
        self.model = nn.Linear(4, 1)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        self.steps_seen = 0

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        return {"error": ((self.model(batch) - batch.sum(1, keepdim=True)) ** 2).mean()}

    def report(self) -> dict[str, float]:
        return {}

    def after_step(self) -> None:
        self.steps_seen += 1


def batch(step: int) -> Tensor:
    return torch.randn(32, 4, generator=torch_generator(1, step))


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TrainingConfig):
    """A configuration with nothing but what all stages have."""

    steps: int = 30


CONFIG = ToyConfig(warmup=3, optimizer=OptimizerConfig(lr=0.4), log_every=1, checkpoint_every=7)


def rows(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def losses(directory: Path, *names: str) -> list[list[float]]:
    """Those of these names that a run has, step by step."""
    found = [[row[name] for name in names if name in row] for row in rows(directory)]
    return [values for values in found if values]


def validations(directory: Path) -> list[dict[str, float]]:
    return [row for row in rows(directory) if any(name.startswith("validation/") for name in row)]


def train_by_ranks(out: Path, ranks: int, recipe: str, *arguments: object, settings: Iterable[str] = ()) -> Path:
    """`pe train` by so many processes, in float32: in bfloat16 a row's rounding depends on the rows beside it."""
    words = [recipe, "--out", str(out), *map(str, arguments), *(w for item in settings for w in ("--set", item))]
    log = out.with_name(f"{out.name}.log")
    in_float32 = {"PE_DTYPE": "float32"}
    processes.run(pe, "train", *words, log=log, ranks=None if ranks == 1 else ranks, environment=in_float32)
    return out
