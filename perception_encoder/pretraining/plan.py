"""Plan a run on image-text pairs, and count its operations as it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.training.cost import (
    BATCHES,
    FLOAT32,
    Phase,
    RunCost,
    StepModel,
    device_rows,
    text_cost,
    vision_cost,
)


def plan_pretraining(
    config: PretrainingConfig, devices: int = 1, teacher: Sequence[StepModel] = (), teacher_size: int = 0
) -> tuple[list[Phase], str]:
    """Return a run's phases, and what is assumed. `teacher`: of a distillation, on images of `teacher_size`."""
    vision, text = tower_configs(config)
    phases = []
    for stage in config.stages:
        batch_size, side = stage.batch_size or config.batch_size, max(stage.image_size, teacher_size)
        rows = device_rows(batch_size, devices)
        copies = 5 if devices > 1 else 2  # of both towers, their gradients, and what one of them is joined from
        features = FLOAT32 * copies * batch_size * (vision.output_dim or vision.width)
        logits = FLOAT32 * 7 * rows * batch_size  # both ways logarithms and targets stay, three are in passing
        positives = BATCHES * 2 * rows * batch_size  # both ways, a byte each
        images = BATCHES * 3.0 * rows * side**2 * (config.frames or 1)
        batch = {"images": images, "losses": float(features + logits + positives)}
        parts = (*pair_parts(config, vision, text, stage.image_size), *teacher)
        losses = contrastive_flops(batch_size, vision)
        phases.append(Phase(stage.image_size, stage.steps, batch_size, parts, losses, batch))
    return phases, ""


def pair_parts(
    config: PretrainingConfig, vision: VisionConfig, text: TextConfig, size: int, length: int | None = None
) -> list[StepModel]:
    """Return both towers as they are trained, on images of `size` and captions of `length`, and the masked copies."""
    images, parts = vision_cost(vision, size), []
    for tower, count, cost in (("visual", config.frames or 1, images), ("text", 1, text_cost(text, length))):
        trained = config.locked != tower
        parts.append(StepModel(cost, count, trained=trained, adapters=config.lora if trained else None))
    return parts + ([StepModel(images, 1 / config.masking.every, masked=True)] if config.masking else [])


def contrastive_flops(batch_size: int, vision: VisionConfig) -> int:
    """Return operations of the contrastive loss, forward and backward, for each of the pairs of a batch."""
    return 12 * batch_size * (vision.output_dim or vision.width)


def pair_cost(
    config: PretrainingConfig,
    vision: VisionConfig,
    text: TextConfig,
    texts_cached: bool = False,
    teacher: Sequence[StepModel] = (),
    taught: Callable[[], float] = float,
) -> RunCost:
    """Return what a run costs as it runs; `vision` has the present resolution, `texts_cached`: see `CachedTexts`.

    `taught`: operations of the teacher since the last call, which may have cached an image already.
    """

    def flops(batch: ImageTextBatch) -> float:
        size = min(batch.images.shape[-1], vision.image_size)  # those for a teacher are scaled down
        images, texts, *masked = pair_parts(config, vision, text, size, batch.tokens.shape[1])
        total = len(batch.images) * (images.flops() + contrastive_flops(len(batch), vision))
        total += 0 if texts_cached else len(batch.tokens) * texts.flops()
        copies = 0 if batch.masked is None else len(batch.masked)
        return total + sum(copies * dataclasses.replace(each, count=1).flops() for each in masked) + taught()

    cached = text_cost(text).forward if texts_cached else 0
    phases, _ = plan_pretraining(config, teacher=teacher)
    return RunCost(flops, [(each.steps, each.flops(config.parallel) - each.batch_size * cached) for each in phases])
