"""A training stage as one object; this module does not import torch, so that recipes are listed quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception_encoder.training.config import TrainingConfig
    from perception_encoder.training.cost import Phase

Recipes = Mapping[str, tuple[str, Callable[[], "TrainingConfig"]]]
"""By name: a line that says what the recipe trains, and a function that returns its complete configuration."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A kind of training with its recipes."""

    name: str
    recipes: Recipes
    run: Callable[..., Path]
    """`run(config, data, out, track, listener)` trains or resumes in a directory, and returns the weights."""
    plan: Callable[[Any, int], tuple[list[Phase], str]]
    """`plan(config, devices)` returns the phases of a run and its assumptions."""
    debug: Callable[[Any], TrainingConfig]  # returns the same run as a check: four steps of a small model
    streams: bool = False  # whether the stage also reads shards


def deferred(module: str, name: str, *arguments: object) -> Callable[..., Any]:
    """Return a function that imports `module` when called and calls its `name` with `arguments` first."""

    def _call(*more: object) -> Any:
        return getattr(import_module(module), name)(*arguments, *more)

    return _call


def deferred_recipes(module: str, rows: Mapping[str, tuple[Any, ...]]) -> Recipes:
    """Return recipes from rows of what each trains, the name of its function in `module`, and its arguments."""
    return {name: (trains, deferred(module, *call)) for name, (trains, *call) in rows.items()}
