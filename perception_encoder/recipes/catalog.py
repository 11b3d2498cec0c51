"""Every recipe by name: what `pe train` runs."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from perception_encoder.errors import ConfigError
from perception_encoder.recipes.kinds import RunConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where the function is that returns a run's configuration."""

    function: str
    """"module:function", in this folder."""
    arguments: tuple[Any, ...] = ()
    summary: str
    """One line, for the list."""

    def config(self) -> RunConfig:
        """The complete configuration."""
        module, _, function = self.function.partition(":")
        found: RunConfig = getattr(importlib.import_module(f"{__package__}.{module}"), function)(*self.arguments)
        return found


RECIPES: dict[str, Recipe] = {
    "builtin": Recipe(
        function="builtin:builtin",
        summary="the built-in model, PE-Core-N16-128: two hours on 2 cores, in float32",
    ),
}


def find_recipe(name: str) -> RunConfig:
    """The configuration of a recipe; ConfigError shows near matches."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name].config()
