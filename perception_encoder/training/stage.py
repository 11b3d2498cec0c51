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

    @classmethod
    def deferred(
        cls,
        name: str,
        package: str,
        rows: Mapping[str, tuple[Any, ...]],
        *,
        run: str,
        plan: str,
        debug: str,
        streams: bool = False,
    ) -> Stage:
        """Return a stage whose modules are imported when they are needed.

        Args:
            rows: By recipe: what it trains, the name of its function in the package's `recipes`, and its arguments.
            run, plan, debug: Names of the functions, after their modules in the package: "run.pretrain".
        """

        def call(function: str, *arguments: object) -> Callable[..., Any]:
            module, _, name = function.partition(".")

            def imported(*more: object) -> Any:
                return getattr(import_module(f"{package}.{module}"), name)(*arguments, *more)

            return imported

        recipes = {
            recipe: (trains, call(f"recipes.{function}", *arguments))
            for recipe, (trains, function, *arguments) in rows.items()
        }
        return cls(name=name, recipes=recipes, run=call(run), plan=call(plan), debug=call(debug), streams=streams)
