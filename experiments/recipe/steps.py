"""The nine steps of section 2.1 at the size of the built-in model, each run with the same number of FLOPs.

What the paper does at 98, 154, 224 and 336 px is done at 48, 64, 96 and 128 px (3 to 8 patches a side instead of 7 to
24). More samples cannot come with larger batches, as in step 3 of the paper, where the compute is fixed. Rates are
those of small runs: the paper's AdamW rate doubled, and LAMB's as the built-in model's recipe has it.
"""

from __future__ import annotations

import dataclasses

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.config import MaskRegularization, PretrainingConfig, trained_towers
from perception_encoder.pretraining.recipes import contrastive_flops, pair_parts
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.builtin.recipes import WEIGHTS

LAST = 9
FLOPS = 150e12
"""Of a run, forward and backward: a quarter of an hour on two slow cores."""
CAPTION = 12
"""Tokens of an average caption of these data."""

_CONSTANT = {96: 1.0}
_PROGRESSIVE = {48: 1 / 3, 64: 1 / 3, 96: 1 / 3}  # shares of the samples
_FOUR_STAGES = {48: 10 / 24, 64: 8 / 24, 96: 4 / 24, 128: 2 / 24}


def nano_step(step: int, seed: int = 0) -> PretrainingConfig:
    """The run with all steps from 1 to `step`; ConfigError for a step that the paper does not have."""
    if not 1 <= step <= LAST:
        raise ConfigError(f"step {step} is none of the paper's; they are 1 to {LAST}")
    shares = _CONSTANT if step < 2 else _PROGRESSIVE if step < 5 else _FOUR_STAGES
    batch_size = 128 if step < 3 else 256
    config = PretrainingConfig(
        model=BUILTIN,
        stages=(ResolutionStage(image_size=96, steps=1),),
        weights=WEIGHTS,
        batch_size=batch_size,
        optimizer=OptimizerConfig(name="adamw", lr=1e-3) if step < 4 else OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        rope=step >= 6,
        attention_pool=step >= 7,
        augmentation=Augmentation(scale=(0.25, 1.0)) if step >= 8 else None,
        masking=MaskRegularization() if step >= 9 else None,
        seed=seed,
    )
    samples = FLOPS / sum(share * _pair_flops(config, size) for size, share in shares.items())
    stages = tuple(
        ResolutionStage(image_size=size, steps=max(1, round(samples * share / batch_size)))
        for size, share in shares.items()
    )
    steps = sum(stage.steps for stage in stages)
    return dataclasses.replace(config, stages=stages, warmup=round(0.08 * steps))


def run_flops(config: PretrainingConfig) -> float:
    """Of all steps of a run, forward and backward."""
    return sum(stage.steps * config.batch_size * _pair_flops(config, stage.image_size) for stage in config.stages)


def _pair_flops(config: PretrainingConfig, image_size: int) -> float:
    """Of one pair of an average caption, forward and backward, with its share of the masked copies."""
    _, vision, text = trained_towers(config)
    parts = pair_parts(config, vision, text, image_size, CAPTION)
    return sum(part.count * part.flops() for part in parts) + contrastive_flops(config.batch_size, vision)
