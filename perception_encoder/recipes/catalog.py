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
    "finetune": Recipe(
        function="finetuning:FinetuningConfig",
        summary="your own pairs on the weights that `--set initial=…` names; `locked=text`, `lora.rank=8`",
    ),
    "distill_builtin": Recipe(
        function="distillation:distill_builtin",
        summary="the model that `--set teacher=…` names, PE-Core-L say, into the built-in one, on your own pairs",
    ),
    "distill_l14": Recipe(
        function="distillation:distill_core",
        arguments=("PE-Core-L14-336", "runs/core_l14/model.safetensors"),
        summary="section 2.4: PE-Core-G into PE-Core-L14, 4.4 billion pairs",
    ),
    "distill_b16": Recipe(
        function="distillation:distill_core",
        arguments=("PE-Core-B16-224", "runs/core_b16/model.safetensors"),
        summary="section 2.4: PE-Core-G into PE-Core-B16, 4.4 billion pairs",
    ),
    "distill_s16": Recipe(
        function="distillation:distill_core",
        arguments=("PE-Core-S16-384", "runs/core_s16/model.safetensors"),
        summary="section 2.4: PE-Core-G into PE-Core-S16, 4.4 billion pairs",
    ),
    "distill_t16": Recipe(
        function="distillation:distill_core",
        arguments=("PE-Core-T16-384", "runs/core_t16/model.safetensors"),
        summary="section 2.4: PE-Core-G into PE-Core-T16, 4.4 billion pairs",
    ),
}


def find_recipe(name: str) -> RunConfig:
    """The configuration of a recipe; ConfigError shows near matches."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name].config()
