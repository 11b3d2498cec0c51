"""Plan a run on image-text pairs, and count its operations as it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.pretraining.config import PretrainingConfig, resolve, tower_configs
from perception_encoder.training.cost import (
    BATCHES,
    BFLOAT16,
    FLOAT32,
    Phase,
    RunCost,
    StepModel,
    device_rows,
    text_cost,
    vision_cost,
)


def plan_pretraining(config: PretrainingConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return a run's phases and assumptions; ConfigError for a teacher without a text tower."""
    config = resolve(config)
    if config.teacher is None:
        return pair_phases(config, devices), ""
    entry = find_entry(config.teacher)
    if entry.text is None:
        raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; use a Core model")
    images, captions = teacher = teacher_parts(config, entry.vision, entry.text)
    assumed = f"the teacher encodes {images.count:.0%} of the pairs' images and {captions.count:.0%} of the captions"
    if config.remember:
        assumed += f"; half of the {config.remember:,} embeddings that it caches are of images"
    return pair_phases(config, devices, teacher, entry.vision.image_size), assumed


def pair_phases(
    config: PretrainingConfig, devices: int = 1, teacher: Sequence[StepModel] = (), teacher_size: int = 0
) -> list[Phase]:
    """Return the phases of a resolved run. `teacher`: of a distillation, on images of `teacher_size`."""
    vision, text = tower_configs(config)
    phases = []
    for stage in config.stages:
        batch_size, side = stage.batch_size or config.batch_size, max(stage.image_size, teacher_size)
        rows = device_rows(batch_size, devices)
        copies = (
            5 if devices > 1 else 2
        )  # of both towers, their gradients, and the parts that one of them is gathered from
        features = FLOAT32 * copies * batch_size * (vision.output_dim or vision.width)
        logits = FLOAT32 * 7 * rows * batch_size  # logarithms and targets both ways stay, three are temporary
        positives = BATCHES * 2 * rows * batch_size  # both ways, a byte each
        images = BATCHES * 3.0 * rows * side**2 * (config.frames or 1)
        batch = {"images": images, "losses": float(features + logits + positives)}
        parts = (*pair_parts(config, vision, text, stage.image_size), *teacher)
        losses = contrastive_flops(batch_size, vision)
        phases.append(Phase(stage.image_size, stage.steps, batch_size, parts, losses, batch))
    return phases


def pair_parts(
    config: PretrainingConfig, vision: VisionConfig, text: TextConfig, size: int, length: int | None = None
) -> list[StepModel]:
    """Return both towers in training, for images of `size` and captions of `length`, and the masked copies."""
    images, parts = vision_cost(vision, size), []
    for tower, count, cost in (("visual", config.frames or 1, images), ("text", 1, text_cost(text, length))):
        trained = config.locked != tower
        parts.append(StepModel(cost, count, trained=trained, adapters=config.lora if trained else None))
    return parts + ([StepModel(images, 1 / config.masking.every, masked=True)] if config.masking else [])


def contrastive_flops(batch_size: int, vision: VisionConfig) -> int:
    """Return the operations of the contrastive loss per pair of a batch, forward and backward."""
    return 12 * batch_size * (vision.output_dim or vision.width)


def pair_cost(
    config: PretrainingConfig,
    vision: VisionConfig,
    text: TextConfig,
    texts_cached: bool = False,
    teacher: Sequence[StepModel] = (),
    taught: Callable[[], float] = float,
) -> RunCost:
    """Return the costs of a run in progress; `vision`: at the current resolution, `texts_cached`: see `CachedTexts`.

    `taught` returns the teacher's operations since the last call; it may have cached some images.
    """

    def flops(batch: ImageTextBatch) -> float:
        size = min(batch.images.shape[-1], vision.image_size)  # images for a teacher are scaled down
        images, texts, *masked = pair_parts(config, vision, text, size, batch.tokens.shape[1])
        total = len(batch.images) * (images.flops() + contrastive_flops(len(batch), vision))
        total += 0 if texts_cached else len(batch.tokens) * texts.flops()
        copies = 0 if batch.masked is None else len(batch.masked)
        return total + sum(copies * dataclasses.replace(part, count=1).flops() for part in masked) + taught()

    cached = text_cost(text).forward if texts_cached else 0
    phases = pair_phases(config, teacher=teacher)
    return RunCost(flops, [(phase.steps, phase.flops(config.parallel) - phase.batch_size * cached) for phase in phases])


def teacher_parts(config: PretrainingConfig, vision: VisionConfig, text: TextConfig) -> tuple[StepModel, StepModel]:
    """Return the teacher's towers; cached inputs are encoded once, but augmented or mixed images are always new."""
    once = min(1.0, config.remember / 2 / config.samples) if config.remember else 1.0
    same = config.augmentation is None and config.mixing is None
    shares = (vision_cost(vision), once if same else 1.0), (text_cost(text), once)
    images, captions = (StepModel(cost, share, trained=False, beside=BFLOAT16) for cost, share in shares)
    return images, captions


def watch_teacher(model: CLIP) -> Callable[[], float]:
    """Count the passes of a model; return a function that returns the operations since its last call."""
    passes: list[float] = []

    def count_images(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(len(inputs[0]) * vision_cost(model.visual.config, inputs[0].shape[-1]).forward)

    def count_texts(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(len(inputs[0]) * text_cost(model.text.config, inputs[0].shape[1]).forward)

    def take() -> float:
        total = sum(passes)
        passes.clear()
        return total

    model.visual.register_forward_pre_hook(count_images)
    model.text.register_forward_pre_hook(count_texts)
    return take
