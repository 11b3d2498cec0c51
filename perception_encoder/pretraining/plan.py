"""What a pretraining run costs before it begins, from formulas: operations, hours, and memory of each device."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.planning.activations import FLOAT32, text_activations, vision_activations
from perception_encoder.planning.devices import Device
from perception_encoder.pretraining.cost import TeacherCost, pair_flops
from perception_encoder.pretraining.run import PretrainingConfig, tower_configs
from perception_encoder.train.loop import AHEAD

BFLOAT16 = 2  # bytes of an element
OPTIMIZER = 2  # moments of a parameter, in float32
WHOLE = 3  # blocks that FSDP2 holds whole at a time: the one at work, the next one, and the gradient of the last


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run is planned for."""

    device: Device
    devices: int
    utilization: float = 0.4
    """Share of the peak that is reached; what is computed twice counts as work."""

    def __post_init__(self) -> None:
        if self.devices < 1 or not 0 < self.utilization <= 1 or min(self.device.flops, self.device.memory) <= 0:
            raise ConfigError(
                f"a cluster of {self.devices} devices with {self.device.flops:g} FLOP/s and {self.device.memory:g} "
                f"bytes each, used to {self.utilization:g}; all must be positive, and the use at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A part of a run at one resolution."""

    image_size: int
    steps: int
    samples: int
    flops: float
    """Operations of all steps, forward and backward."""
    executed: float
    """The same with what is computed once more to save memory."""
    memory: dict[str, float]
    """Bytes of a device, by what they hold."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole run on a cluster."""

    parameters: int
    stages: tuple[StagePlan, ...]
    cluster: Cluster
    assumed: str = ""
    """What no formula tells, and was taken for granted."""

    @property
    def memory(self) -> dict[str, float]:
        """That of the stage which needs most."""
        return max((stage.memory for stage in self.stages), key=lambda parts: sum(parts.values()))

    def device_hours(self, stage: StagePlan | None = None) -> float:
        """Of one stage, or of all."""
        executed = sum(each.executed for each in self.stages) if stage is None else stage.executed
        return executed / (self.cluster.device.flops * self.cluster.utilization) / 3600


def plan_pretraining(config: PretrainingConfig, cluster: Cluster, teacher: TeacherCost | None = None) -> Plan:
    """Stages and memory; ConfigError where a batch has fewer pairs than there are devices.

    `teacher`: of a distillation, on every device; it looks at pictures without gradients.
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
    return Plan(parameters=parameters, stages=tuple(stages), cluster=cluster)


def device_memory(
    config: PretrainingConfig, stage: Stage, devices: int, teacher: TeacherCost | None = None
) -> dict[str, float]:
    """Bytes that a step holds on a device under bf16 autocast, by what they are, each at its most.

    What an operation needs in passing, and what the allocator wastes, come on top: leave a tenth free.
    """
    side, frozen = stage.image_size, {}
    if teacher is not None:
        side = max(side, teacher.vision.image_size)  # each of the two scales its pictures down
        frozen = {"teacher": float(BFLOAT16 * (teacher.vision.parameters + teacher.text.parameters))}
    return (
        _parameter_memory(config, devices)
        | frozen
        | {"activations": _activation_memory(config, stage, devices)}
        | _batch_memory(config, stage, devices, side)
    )


def _parameter_memory(config: PretrainingConfig, devices: int) -> dict[str, float]:
    """Weights, what the optimizer adds, and what the ranks' sharing adds."""
    vision, text = tower_configs(config)
    shared = config.parallel.kind == "fsdp" and devices > 1
    towers = {
        "visual": (vision, vision.mlp_width),
        "text": (text, 4 * text.width),
    }
    parts = dict.fromkeys(("weights", "bf16 copies", "gradients", "optimizer", "whole blocks", "buckets"), 0.0)
    for tower, (shape, hidden) in towers.items():
        total, depth, width, block = shape.parameters, shape.depth, shape.width, shape.block_parameters
        blocks = depth * block
        held = total - blocks + blocks / devices if shared else total
        parts["weights"] += FLOAT32 * held
        parts["bf16 copies"] += BFLOAT16 * total
        parts["whole blocks"] = max(parts["whole blocks"], WHOLE * FLOAT32 * block if shared else 0)
        if config.locked == tower:
            continue
        if config.lora is not None:
            held = total = depth * config.lora.parameters(width, hidden)
            parts["weights"] += FLOAT32 * held
            parts["bf16 copies"] += BFLOAT16 * total
        parts["gradients"] += FLOAT32 * held
        parts["optimizer"] += OPTIMIZER * FLOAT32 * held
        parts["buckets"] += FLOAT32 * total if devices > 1 and not shared else 0  # in which DDP adds gradients up
    return {name: size for name, size in parts.items() if size}


def _activation_memory(config: PretrainingConfig, stage: Stage, devices: int) -> float:
    vision, text = tower_configs(config)
    pairs = -(-(stage.batch_size or config.batch_size) // devices)
    masked = 0 if config.masking is None else -(-pairs // config.masking.every)
    at_once = min(config.parallel.chunk or pairs, pairs)
    checkpointing, frames = config.parallel.checkpointing, config.frames or 1
    of_picture = frames * vision_activations(vision, stage.image_size, BFLOAT16).total(checkpointing)
    of_text = text_activations(text, size=BFLOAT16).total(checkpointing)
    parts = [
        at_once * of_picture if config.locked != "visual" else 0,
        at_once * of_text if config.locked != "text" else 0,
        min(at_once, masked) * of_picture,
    ]
    return float(sum(parts) if config.parallel.chunk is None else max(parts))


def _batch_memory(config: PretrainingConfig, stage: Stage, devices: int, side: int) -> dict[str, float]:
    """The pictures, of `side` px, all ranks' features, and the logits of this rank's rows."""
    vision, _ = tower_configs(config)
    batch = stage.batch_size or config.batch_size
    pairs = -(-batch // devices)
    batches = 1 + AHEAD  # are on the device: the current one, and those that are made in advance
    copies = 5 if devices > 1 else 2  # of both towers, their gradients, and what one of them is joined from
    return {
        "pictures": batches * 3.0 * pairs * side**2 * (config.frames or 1),
        "features": copies * FLOAT32 * float(batch) * (vision.output_dim or vision.width),
        "logits": 7 * FLOAT32 * float(pairs) * batch,  # both ways logarithms and targets are kept, three are in passing
        "true pairs": batches * 2.0 * pairs * batch,  # both ways, a byte each
    }
