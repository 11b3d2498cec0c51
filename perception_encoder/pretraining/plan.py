"""Plan a run on image-text pairs."""

from __future__ import annotations

from dataclasses import replace

from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.pretraining.config import PretrainingConfig, resolve, tower_configs
from perception_encoder.training.cost import BATCHES, BFLOAT16, FLOAT32, Part, Phase, Trained, device_rows, tower_part


def plan_pretraining(config: PretrainingConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return a run's phases and assumptions; ConfigError for a teacher without a text tower."""
    config = resolve(config)
    (vision, text), teacher, teacher_size, phases = tower_configs(config), list[Part](), 0, []
    if config.teacher is not None:
        entry = find_entry(config.teacher)
        if entry.text is None:
            raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; use a Core model")
        towers = (tower_part(entry.vision, train=False), tower_part(entry.text, train=False))
        teacher, teacher_size = [replace(part, beside=BFLOAT16) for part in towers], entry.vision.image_size
    for stage in config.stages:
        batch_size, side = stage.batch_size or config.batch_size, max(stage.image_size, teacher_size)
        rows, copies = device_rows(batch_size, devices), 5 if devices > 1 else 2
        features = copies * batch_size * (vision.output_dim or 0)  # both towers', their gradients, parts to gather
        logits = 7 * rows * batch_size  # logarithms and targets both ways stay, three are temporary
        positives = BATCHES * 2 * rows * batch_size  # both ways, a byte each
        images = BATCHES * 3.0 * rows * side**2 * (config.frames or 1)
        batch = {"images": images, "losses": float(FLOAT32 * (features + logits) + positives)}
        parts = [*pair_parts(config, vision, text, stage.image_size), *teacher]
        losses = contrastive_flops(batch_size, vision)
        phases.append(Phase(stage.image_size, stage.steps, batch_size, parts, losses, batch))
    return phases, "the teacher encodes every pair, with no embedding cached" if teacher else ""


def pair_parts(
    config: PretrainingConfig, vision: VisionConfig, text: TextConfig, size: int, length: int | None = None
) -> list[Part]:
    """Return both towers in training, for images of `size` and captions of `length`, and the masked copies."""
    adapted: Trained = (config.lora.rank, config.lora.targets) if config.lora else True
    images = tower_part(vision, size, config.locked != "visual" and adapted)
    parts = [replace(images, count=config.frames or 1), tower_part(text, length, config.locked != "text" and adapted)]
    if config.masking:
        parts.append(replace(tower_part(vision, size).masked(), count=1 / config.masking.every))
    return parts


def contrastive_flops(batch_size: int, vision: VisionConfig) -> int:
    """Return the operations of the contrastive loss per pair of a batch, forward and backward."""
    return 12 * batch_size * (vision.output_dim or vision.width)
