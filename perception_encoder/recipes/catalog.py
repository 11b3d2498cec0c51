"""Every recipe by name: what `pe train` runs."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from perception_encoder.errors import ConfigError
from perception_encoder.recipes.kinds import RunConfig


@dataclass(frozen=True)
class Recipe:
    """Where the function is that returns a run's configuration."""

    function: str
    """"module:function", in this package."""
    summary: str
    """One line, for the list."""
    arguments: tuple[Any, ...] = ()

    def config(self) -> RunConfig:
        """The complete configuration."""
        module, _, function = self.function.partition(":")
        found: RunConfig = getattr(importlib.import_module(f"perception_encoder.{module}"), function)(*self.arguments)
        return found


RECIPES: dict[str, Recipe] = {
    "builtin": Recipe("pretraining.builtin.recipe:builtin", "the built-in model, first edition: two hours on 2 cores"),
    "builtin_second": Recipe(
        "pretraining.builtin.recipe:builtin_second", "its second edition: two hours more, on mixed images"
    ),
    "core_t16": Recipe("pretraining.recipes:core", "PE-Core-T: 58 billion pairs", ("t16",)),
    "core_s16": Recipe("pretraining.recipes:core", "PE-Core-S: 58 billion pairs", ("s16",)),
    "core_b16": Recipe("pretraining.recipes:core", "PE-Core-B: 58 billion pairs", ("b16",)),
    "core_l14": Recipe("pretraining.recipes:core", "PE-Core-L: 58 billion pairs", ("l14",)),
    "core_g14": Recipe("pretraining.recipes:core", "PE-Core-G: 86 billion pairs", ("g14",)),
    "core_t16_cooldown": Recipe("pretraining.recipes:cooldown", "PE-Core-T goes on: 50 million pairs", ("t16",)),
    "core_s16_cooldown": Recipe("pretraining.recipes:cooldown", "PE-Core-S goes on: 50 million pairs", ("s16",)),
    "core_b16_cooldown": Recipe("pretraining.recipes:cooldown", "PE-Core-B goes on: 50 million pairs", ("b16",)),
    "core_l14_cooldown": Recipe("pretraining.recipes:cooldown", "PE-Core-L goes on: 50 million pairs", ("l14",)),
    "core_g14_cooldown": Recipe("pretraining.recipes:cooldown", "PE-Core-G goes on: 50 million pairs", ("g14",)),
    "video_finetune_t16": Recipe("pretraining.recipes:video_finetune", "PE-Core-T ends: 22 million videos", ("t16",)),
    "video_finetune_s16": Recipe("pretraining.recipes:video_finetune", "PE-Core-S ends: 22 million videos", ("s16",)),
    "video_finetune_b16": Recipe("pretraining.recipes:video_finetune", "PE-Core-B ends: 22 million videos", ("b16",)),
    "video_finetune_l14": Recipe("pretraining.recipes:video_finetune", "PE-Core-L ends: 22 million videos", ("l14",)),
    "video_finetune_g14": Recipe("pretraining.recipes:video_finetune", "PE-Core-G ends: 22 million videos", ("g14",)),
    "ablation_1": Recipe("pretraining.recipes:ablation", "ViT-L/14, step 1: CLIP as it was", (1,)),
    "ablation_2": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 2: progressive resolution", (2,)),
    "ablation_3": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 3: twice the batch and the pairs", (3,)),
    "ablation_4": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 4: LAMB", (4,)),
    "ablation_5": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 5: a stage at 336 px", (5,)),
    "ablation_6": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 6: 2D RoPE", (6,)),
    "ablation_7": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 7: attention pooling", (7,)),
    "ablation_8": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 8: augmentation", (8,)),
    "ablation_9": Recipe("pretraining.recipes:ablation", "ViT-L/14, steps 1 to 9: mask regularisation", (9,)),
    "vanilla_s14": Recipe("pretraining.recipes:scaling", "ViT-S/14: CLIP as it was (Fig. 3)", (1, "s14")),
    "full_s14": Recipe("pretraining.recipes:scaling", "ViT-S/14: all nine steps (Fig. 3)", (9, "s14")),
    "vanilla_b14": Recipe("pretraining.recipes:scaling", "ViT-B/14: CLIP as it was (Fig. 3)", (1, "b14")),
    "full_b14": Recipe("pretraining.recipes:scaling", "ViT-B/14: all nine steps (Fig. 3)", (9, "b14")),
    "vanilla_l14_120k": Recipe("pretraining.recipes:scaling", "ViT-L/14: CLIP (Fig. 4)", (1, "l14", 120_000)),
    "full_l14_120k": Recipe("pretraining.recipes:scaling", "ViT-L/14: all nine (Fig. 4)", (9, "l14", 120_000)),
    "vanilla_l14_240k": Recipe("pretraining.recipes:scaling", "ViT-L/14: CLIP (Fig. 4)", (1, "l14", 240_000)),
    "full_l14_240k": Recipe("pretraining.recipes:scaling", "ViT-L/14: all nine (Fig. 4)", (9, "l14", 240_000)),
    "vanilla_l14_360k": Recipe("pretraining.recipes:scaling", "ViT-L/14: CLIP (Figs. 3, 4)", (1, "l14", 360_000)),
    "full_l14_360k": Recipe("pretraining.recipes:scaling", "ViT-L/14: all nine (Figs. 3, 4)", (9, "l14", 360_000)),
    "distill_l14": Recipe("distillation.run:distill_core", "PE-Core-G into PE-Core-L: 4.4 billion pairs", ("l14",)),
    "distill_b16": Recipe("distillation.run:distill_core", "PE-Core-G into PE-Core-B: 4.4 billion pairs", ("b16",)),
    "distill_s16": Recipe("distillation.run:distill_core", "PE-Core-G into PE-Core-S: 4.4 billion pairs", ("s16",)),
    "distill_t16": Recipe("distillation.run:distill_core", "PE-Core-G into PE-Core-T: 4.4 billion pairs", ("t16",)),
    "distill_builtin": Recipe("distillation.run:distill_builtin", "a model, --set teacher=…, into the built-in one"),
    "finetune": Recipe("finetuning.run:FinetuningConfig", "weights, --set initial=…, on your own pairs"),
}


def find_recipe(name: str) -> RunConfig:
    """The configuration of a recipe; ConfigError shows near matches."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name].config()
