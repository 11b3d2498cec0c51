"""Plan a pretraining run before it begins, from formulas: operations, hours, and memory of each device."""

from __future__ import annotations

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.planning.activations import BFLOAT16, FLOAT32, OPTIMIZER, text_activations, vision_activations
from perception_encoder.planning.cluster import Cluster, StagePlan, TrainingPlan
from perception_encoder.planning.cost import TeacherCost, adapter_parameters
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.pretraining.cost import pair_flops
from perception_encoder.train.loop import AHEAD

WHOLE = 3  # blocks that FSDP2 holds whole at a time: the one at work, the next one, and the gradient of the last


def plan_pretraining(config: PretrainingConfig, cluster: Cluster, teacher: TeacherCost | None = None) -> TrainingPlan:
    """Plan a run; ConfigError if a batch has fewer pairs than there are devices.

    `teacher`: of a distillation, on every device, without gradients.
    """
    vision, text = tower_configs(config)
    stages = []
    for stage in config.stages:
        batch = stage.batch_size or config.batch_size
        if batch < cluster.devices:
            raise ConfigError(f"a batch of {batch} cannot be shared by {cluster.devices} devices")
        flops, executed = pair_flops(config, vision, text, stage, teacher)
        pairs = stage.steps * batch
        stages.append(
            StagePlan(
                image_size=stage.image_size,
                steps=stage.steps,
                samples=pairs,
                flops=pairs * flops,
                executed=pairs * executed,
                memory=device_memory(config, stage, cluster.devices, teacher),
            )
        )
    parameters = vision.parameters + text.parameters + 1
    return TrainingPlan(parameters=parameters, stages=tuple(stages), cluster=cluster)


def device_memory(
    config: PretrainingConfig, stage: Stage, devices: int, teacher: TeacherCost | None = None
) -> dict[str, float]:
    """Return bytes that a step holds on a device under bf16 autocast, by what they are, each at its peak.

    Temporaries of operations and what the allocator wastes come on top: leave a tenth free.
    """
    side, frozen = stage.image_size, {}
    if teacher is not None:
        side = max(side, teacher.vision.image_size)  # each of the two scales its images down
        frozen = {"teacher": float(BFLOAT16 * (teacher.vision.parameters + teacher.text.parameters))}
    return (
        _parameter_memory(config, devices)
        | frozen
        | {"activations": _activation_memory(config, stage, devices)}
        | _batch_memory(config, stage, devices, side)
    )


def _parameter_memory(config: PretrainingConfig, devices: int) -> dict[str, float]:
    """Return bytes of the weights, of the optimizer, and of what sharing among ranks adds."""
    vision, text = tower_configs(config)
    shared = config.parallel.kind == "fsdp" and devices > 1
    towers: dict[str, tuple[VisionConfig | TextConfig, int]] = {
        "visual": (vision, vision.mlp_width),
        "text": (text, 4 * text.width),
    }
    parts = dict.fromkeys(("weights", "bf16 copies", "gradients", "optimizer", "whole blocks", "buckets"), 0.0)
    for tower, (shape, hidden) in towers.items():
        total, depth, width, block = shape.parameters, shape.depth, shape.width, shape.block_parameters
        blocks = depth * block
        own = total - blocks + blocks / devices if shared else total
        parts["weights"] += FLOAT32 * own
        parts["bf16 copies"] += BFLOAT16 * total
        parts["whole blocks"] = max(parts["whole blocks"], WHOLE * FLOAT32 * block if shared else 0)
        if config.locked == tower:
            continue
        if config.lora is not None:
            own = total = depth * adapter_parameters(config.lora, width, hidden)
            parts["weights"] += FLOAT32 * own
            parts["bf16 copies"] += BFLOAT16 * total
        parts["gradients"] += FLOAT32 * own
        parts["optimizer"] += OPTIMIZER * FLOAT32 * own
        parts["buckets"] += FLOAT32 * total if devices > 1 and not shared else 0  # in which DDP adds gradients up
    return {name: size for name, size in parts.items() if size}


def _activation_memory(config: PretrainingConfig, stage: Stage, devices: int) -> float:
    vision, text = tower_configs(config)
    pairs = -(-(stage.batch_size or config.batch_size) // devices)
    masked = 0 if config.masking is None else -(-pairs // config.masking.every)
    images = pairs * (config.frames or 1)
    chunk, checkpointing = config.parallel.chunk or images, config.parallel.checkpointing
    of_image = vision_activations(vision, stage.image_size, BFLOAT16).total(checkpointing)
    of_text = text_activations(text, size=BFLOAT16).total(checkpointing)
    parts = [
        min(chunk, images) * of_image if config.locked != "visual" else 0,
        min(chunk, pairs) * of_text if config.locked != "text" else 0,
        min(chunk, masked) * of_image,
    ]
    return float(sum(parts) if config.parallel.chunk is None else max(parts))


def _batch_memory(config: PretrainingConfig, stage: Stage, devices: int, side: int) -> dict[str, float]:
    """Return bytes of the images, of `side` px, all ranks' embeddings, and the logits of this rank's rows."""
    vision, _ = tower_configs(config)
    batch = stage.batch_size or config.batch_size
    pairs = -(-batch // devices)
    batches = 1 + AHEAD  # are on the device: the current one, and those that are made in advance
    copies = 5 if devices > 1 else 2  # of both towers, their gradients, and what one of them is joined from
    return {
        "images": batches * 3.0 * pairs * side**2 * (config.frames or 1),
        "features": copies * FLOAT32 * float(batch) * (vision.output_dim or vision.width),
        "logits": 7 * FLOAT32 * float(pairs) * batch,  # both ways logarithms and targets stay, three are in passing
        "true pairs": batches * 2.0 * pairs * batch,  # both ways, a byte each
    }
