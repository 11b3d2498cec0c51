"""Plan a spatial alignment before it begins, from formulas: operations, hours, and memory of each device."""

from __future__ import annotations

import dataclasses

from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import VisionConfig
from perception_encoder.planning.activations import BFLOAT16, FLOAT32, OPTIMIZER, vision_activations
from perception_encoder.planning.cluster import Cluster, StagePlan, TrainingPlan
from perception_encoder.planning.cost import vision_cost
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.task import SpatialBatch

MASKS = 1024
"""Masks of an image that the mask teacher is assumed to give: SAM's, of a grid of 32x32 points."""


def plan_spatial(config: SpatialConfig, cluster: Cluster) -> TrainingPlan:
    """Plan a run without its mask teacher; ConfigError if a batch has fewer images than there are devices."""
    if config.batch_size < cluster.devices:
        raise ConfigError(f"a batch of {config.batch_size} cannot be shared by {cluster.devices} devices")
    student, teacher = student_tower(config), teacher_tower(config)
    cost = SpatialCost(config, student, teacher)
    again = vision_cost(student).recomputed(checkpointing=config.parallel.checkpointing)
    samples = config.steps * config.batch_size
    stage = StagePlan(
        image_size=student.image_size,
        steps=config.steps,
        samples=samples,
        flops=samples * cost.image,
        executed=samples * (cost.image + again),
        memory=_memory(config, student, teacher, cluster.devices),
    )
    assumed = "the mask teacher's passes are not counted: cache them with `pe data masks`" if config.masks else ""
    return TrainingPlan(parameters=student.parameters, stages=(stage,), cluster=cluster, assumed=assumed)


class SpatialCost:
    """What a run costs: the loop reports by it how well the device is used and when the run will end."""

    def __init__(self, config: SpatialConfig, student: VisionConfig, teacher: VisionConfig | None) -> None:
        self.config = config
        self.image = float(vision_cost(student).training() + (vision_cost(teacher).forward if teacher else 0))
        self.image += _pairs(config, student, teacher)
        """Operations of an image in a step."""

    def flops(self, batch: SpatialBatch) -> float:
        """Operations of this rank's part of a batch."""
        return len(batch) * self.image

    def share(self, steps: int) -> float:
        """Share of the run's work that is done after so many steps."""
        return steps / self.config.steps


def student_tower(config: SpatialConfig) -> VisionConfig:
    """The student's architecture."""
    whole = find_entry(config.model).vision
    return _tokens_only(whole, config.image_size or whole.image_size, config.layer_scale or whole.layer_scale)


def teacher_tower(config: SpatialConfig) -> VisionConfig | None:
    """The teacher's architecture, cut at its layer; None if no loss needs one."""
    if not (config.core_weight or config.pairs_weight):
        return None
    student = student_tower(config)
    whole = find_entry(config.teacher or config.model).vision
    cut = dataclasses.replace(whole, depth=config.teacher_layer % whole.depth + 1)
    return _tokens_only(cut, student.grid * whole.patch_size, whole.layer_scale)


def _tokens_only(config: VisionConfig, image_size: int, layer_scale: float | None) -> VisionConfig:
    return dataclasses.replace(
        config, image_size=image_size, layer_scale=layer_scale, attention_pool=False, final_norm=False, output_dim=None
    )


def _pairs(config: SpatialConfig, student: VisionConfig, teacher: VisionConfig | None) -> float:
    """Operations of an image's similarity losses: both sides' products, the student's made again for its gradient."""
    patches, total = student.grid**2, 0.0
    for used, width in ((config.masks, MASKS), (config.pairs_weight, teacher.width if teacher else 0)):
        if used:
            total += 2.0 * patches**2 * (2 * width + 3 * student.width)
    return total


def _memory(
    config: SpatialConfig, student: VisionConfig, teacher: VisionConfig | None, devices: int
) -> dict[str, float]:
    """Bytes that a step holds on a device, by what they are, each at its peak; leave a tenth free."""
    share = 1 / devices if config.parallel.kind == "fsdp" else 1.0
    rows = -(-config.batch_size // devices)
    frozen = teacher.parameters if teacher else 0
    patches = student.grid**2
    activations = vision_activations(student, student.image_size, BFLOAT16).total(config.parallel.checkpointing)
    tokens = patches * (student.width + (teacher.width if teacher else 0) + (MASKS if config.masks else 0))
    parts = {
        "weights": FLOAT32 * student.parameters * share,
        "teacher": float(FLOAT32 * frozen),
        "bf16 copies": float(BFLOAT16 * (student.parameters + frozen)),
        "gradients": FLOAT32 * student.parameters * share,
        "optimizer": OPTIMIZER * FLOAT32 * student.parameters * share,
        "activations": float(rows * activations),
        "tokens": float(rows * tokens * FLOAT32),
        "images": 3 * rows * 3.0 * FLOAT32 * student.image_size**2,
    }
    return {name: size for name, size in parts.items() if size}
