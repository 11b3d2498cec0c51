"""A training stage as one object; this module needs no torch, so that recipes are listed quickly."""

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
"""By name: what a recipe trains, in a line, and a function that returns its complete configuration."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A way of training, and its recipes."""

    name: str
    recipes: Recipes
    run: Callable[..., Path]
    """`run(config, data, out, track, listener)` trains, or resumes, in a directory, and returns the weights."""
    plan: Callable[[Any, int], tuple[list[Phase], str]]
    """`plan(config, devices)` returns the phases of a run, and what it assumes."""
    debug: Callable[[Any], TrainingConfig]
    """Returns the same run in four steps of a small model, as a check."""
    streams: bool = False
    """Whether it reads shards, too."""


def deferred(module: str, name: str, *arguments: object) -> Callable[..., Any]:
    """Return a function that imports `module` when it is called, and calls its `name` with `arguments` first."""

    def _call(*more: object) -> Any:
        return getattr(import_module(module), name)(*arguments, *more)

    return _call
