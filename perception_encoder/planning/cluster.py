"""Plan a run on a cluster: operations, device-hours and memory of a device, by stage."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.errors import ConfigError
from perception_encoder.planning.devices import Device


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The devices that a run is planned for."""

    device: Device
    devices: int
    utilization: float = 0.4
    """Share of the peak that is reached; recomputation counts as work."""

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
    """The same with what is recomputed to save memory."""
    memory: dict[str, float]
    """Bytes of a device, by what they hold."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The cost of a whole run on a cluster."""

    parameters: int
    stages: tuple[StagePlan, ...]
    cluster: Cluster
    assumed: str = ""
    """What was assumed because no formula gives it."""

    @property
    def memory(self) -> dict[str, float]:
        """Memory of the stage that needs most."""
        return max((stage.memory for stage in self.stages), key=lambda parts: sum(parts.values()))

    def device_hours(self, stage: StagePlan | None = None) -> float:
        """Return the device-hours of one stage, or of all."""
        executed = sum(each.executed for each in self.stages) if stage is None else stage.executed
        return executed / (self.cluster.device.flops * self.cluster.utilization) / 3600
