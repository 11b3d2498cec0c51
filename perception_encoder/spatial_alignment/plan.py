"""Plan a spatial alignment, without its mask teacher."""

from __future__ import annotations

from dataclasses import replace

from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.cost import BATCHES, BFLOAT16, FLOAT32, Phase, cut_tower, device_rows, tower_part

MASKS = 1024
"""Assumed number of masks per image from the mask teacher: SAM's, for a grid of 32x32 points."""


def plan_spatial(config: SpatialConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return the run's one phase and its assumptions."""
    student = cut_tower(find_entry(config.model).vision, -1, config.image_size, config.layer_scale)
    parts, patches, width, masks = [tower_part(student)], student.grid**2, 0, MASKS if config.masks else 0
    if config.core_weight or config.pairs_weight:
        whole = find_entry(config.teacher or config.model).vision
        teacher = tower_part(cut_tower(whole, config.teacher_layer, student.grid * whole.patch_size), train=False)
        parts.append(replace(teacher, beside=FLOAT32 + BFLOAT16))
        width = whole.width
    sides = [masks, width * bool(config.pairs_weight)]  # both have similarities of all patches,
    losses = sum(2.0 * patches**2 * (2 * side + 3 * student.width) for side in sides if side)  # student's made twice
    rows = device_rows(config.batch_size, devices)
    batch = {
        "losses": float(rows * patches * (student.width + width + masks) * FLOAT32),
        "images": rows * 3.0 * student.image_size**2 * (BATCHES + FLOAT32),
    }
    assumed = "the mask teacher's passes are not counted: cache them with `pe data masks`" if masks else ""
    return [Phase(student.image_size, config.steps, config.batch_size, parts, losses, batch)], assumed
