"""Plan a spatial alignment, without its mask teacher."""

from __future__ import annotations

from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import VisionConfig
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.cost import (
    BATCHES,
    BFLOAT16,
    FLOAT32,
    Phase,
    StepModel,
    cut_tower,
    device_rows,
    vision_cost,
)

MASKS = 1024
"""Assumed number of masks per image from the mask teacher: SAM's, for a grid of 32x32 points."""


def plan_spatial(config: SpatialConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return the run's one phase and its assumptions."""
    student, teacher = student_tower(config), teacher_tower(config)
    rows, patches, width = device_rows(config.batch_size, devices), student.grid**2, teacher.width if teacher else 0
    parts = [StepModel(vision_cost(student))]
    if teacher is not None:
        parts.append(StepModel(vision_cost(teacher), trained=False, beside=FLOAT32 + BFLOAT16))
    sides = [MASKS] * bool(config.masks) + [width] * bool(config.pairs_weight)  # both have similarities of all patches,
    losses = sum(2.0 * patches**2 * (2 * width + 3 * student.width) for width in sides)  # the student's are made twice
    tokens = patches * (student.width + width + (MASKS if config.masks else 0))
    images = rows * 3.0 * student.image_size**2
    batch = {"losses": float(rows * tokens * FLOAT32), "images": images * (BATCHES + FLOAT32)}
    assumed = "the mask teacher's passes are not counted: cache them with `pe data masks`" if config.masks else ""
    return [Phase(student.image_size, config.steps, config.batch_size, tuple(parts), losses, batch)], assumed


def student_tower(config: SpatialConfig) -> VisionConfig:
    """Return the student's architecture."""
    return cut_tower(find_entry(config.model).vision, -1, config.image_size, config.layer_scale)


def teacher_tower(config: SpatialConfig) -> VisionConfig | None:
    """Return the teacher's architecture, cut at its layer; None if no loss needs one."""
    if not (config.core_weight or config.pairs_weight):
        return None
    whole = find_entry(config.teacher or config.model).vision
    return cut_tower(whole, config.teacher_layer, student_tower(config).grid * whole.patch_size)
