"""Recipes of finetuning: the default, and the debug form of any."""

from __future__ import annotations

import dataclasses

from perception_encoder.finetuning.config import FinetuningConfig
from perception_encoder.models.registry import BUILTIN
from perception_encoder.training.config import debug_loop


def own_pairs() -> FinetuningConfig:
    """Return the finetuning of all weights on one's own pairs, 300 steps; for LoRA, `--set lora.rank=16`."""
    return FinetuningConfig()


def debug_finetuning(config: FinetuningConfig) -> FinetuningConfig:
    """Return the same run in four steps of the built-in model: its adapters, its tower, or all of it."""
    return dataclasses.replace(debug_loop(config), initial=BUILTIN, steps=4, image_size=32)
