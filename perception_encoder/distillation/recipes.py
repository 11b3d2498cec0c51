"""Recipes of distillation: the paper's students of PE-Core-G (section 2.4), and any teacher into the built-in model."""

from __future__ import annotations

import dataclasses

from perception_encoder.data.pairs import Stage
from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.pretraining.recipes import MINUTES, debug_pretraining
from perception_encoder.training.optimizer import OptimizerConfig

STUDENTS = {"l14": "PE-Core-L14-336", "b16": "PE-Core-B16-224", "s16": "PE-Core-S16-384", "t16": "PE-Core-T16-384"}


def distill_core(size: str) -> DistillationConfig:
    """PE-Core-G into L, B, S or T ("l14", "b16", "s16", "t16"): 4.4 billion pairs at the final resolution.

    It begins where the student's cooldown ended; the video finetuning begins where it ends. Weight decay is the 0.05 of
    the paper's table (appendix B.1.1); its text says none, which is `--set optimizer.weight_decay=0`: LAMB stays LAMB.
    """
    model = STUDENTS[size]
    return DistillationConfig(
        model=model,
        initial=f"runs/core_{size}_cooldown/model.safetensors",
        teacher="PE-Core-G14-448",
        stages=(Stage(image_size=find_model(model).vision.image_size, steps=269_000),),
        batch_size=16_384,
        warmup=2_000,
        optimizer=OptimizerConfig(lr=1e-6, decay_tables=True),
        augmentation=None,
        half=False,
        checkpoint_every=1_000,
        checkpoint_minutes=MINUTES,
    )


def distill_builtin() -> DistillationConfig:
    """One's own images and any teacher into the built-in model; the teacher encodes each image and caption once."""
    return DistillationConfig(
        model=BUILTIN,
        initial="builtin",
        teacher="PE-Core-L14-336",
        stages=(Stage(image_size=128, steps=1_000),),
        batch_size=128,
        warmup=50,
        optimizer=OptimizerConfig(lr=1e-3, plain_lr=1e-3),
        augmentation=None,
        remember=200_000,
    )


def debug_distillation(config: DistillationConfig) -> DistillationConfig:
    """Return the same losses in four steps, of the built-in model by itself."""
    return dataclasses.replace(debug_pretraining(config), teacher=BUILTIN)
