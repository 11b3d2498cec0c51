"""Recipes of video finetuning: the paper's (section 2.4, appendix B.1.1), and one in small."""

from __future__ import annotations

import dataclasses

from perception_encoder.data.pairs import Stage
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.recipes import SIZES, WARMUP, cooldown
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.video_finetuning.config import VideoFinetuningConfig

TEACHER = "g14"
STEPS, BATCH, FRAMES = 5_400, 4_096, 8


def video_finetune(size: str) -> VideoFinetuningConfig:
    """Return the run on 22 million videos of 8 frames: from the distilled weights, G from those of the cooldown."""
    config = cooldown(size)
    before = f"core_{size}_cooldown" if size == TEACHER else f"distill_{size}"
    changed = dataclasses.replace(
        config,
        initial=f"runs/{before}/model.safetensors",
        stages=(Stage(image_size=SIZES[size][1][-1], steps=STEPS),),
        frames=FRAMES,
        batch_size=BATCH,
        warmup=WARMUP,
        optimizer=dataclasses.replace(config.optimizer, lr=1e-6),
        masking=None,
    )
    return VideoFinetuningConfig(**{each.name: getattr(changed, each.name) for each in dataclasses.fields(changed)})


def video_finetune_builtin() -> VideoFinetuningConfig:
    """Return the built-in model's run on about a thousand clips: four frames of each, ten minutes on one core."""
    return VideoFinetuningConfig(
        model=BUILTIN,
        initial=BUILTIN,
        stages=(Stage(image_size=96, steps=160),),
        frames=4,
        batch_size=32,
        warmup=16,
        optimizer=OptimizerConfig(name="adamw", lr=3e-4),
        parallel=ParallelConfig(chunk=16),
    )
