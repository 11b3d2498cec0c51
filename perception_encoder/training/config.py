"""Settings shared by all training stages, and the fingerprint of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.records import Checked, Count, CountOrZero, Range, Share, Weight
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """Score the model during training; the weights with the best score are written beside the last ones."""

    every: Count = 100
    """Steps between validations; the last step is always validated."""
    metric: str | None = None
    """Metric that selects the best step, by default the task's first. For image-text pairs: "retrieval", the mean of
    the R@1 from images to captions ("image_to_text") and from captions to images ("text_to_image"), or "zero_shot", the
    top-1 accuracy over the labels, for data in memory."""
    share: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.05
    """Share of each source to hold out if the data have no split `val`; with 0, a run is validated only if they
    have one."""
    size: Count = 1000
    """Maximum number of samples."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked, ABC):
    """Length and pace of training, how often to report, save and validate.

    Each stage adds its own settings, and `steps`, as a property or as a field with a default.
    """

    example: ClassVar[str] = ""
    """A command that demonstrates the weights, `{weights}`."""
    chunks: ClassVar[bool] = False
    """Whether the stage has micro-batches, `parallel.chunk`."""

    batch_size: Count = 256
    """Samples per step, over all processes."""
    warmup: CountOrZero = 200
    """Steps of linear warm-up; unless set, a tenth of a run that is shorter."""
    drops: tuple[Annotated[float, Range(above=0, below=1)], ...] = ()
    """Shares of the steps after which the rate falls to a tenth; empty: cosine decay to `floor`."""
    floor: Share = 0.0
    """Share of the peak rate at which the cosine ends."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig | None = None
    """Score the model on held-out data during training."""
    keep: Count = 2
    """Number of newest checkpoints to keep, beside the best one."""
    log_every: Count = 20
    """Steps between reports."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    checkpoint_minutes: Weight = 5.0
    """Maximum minutes between checkpoints."""
    seed: CountOrZero = 0
    """Seed of everything random: data order, augmentation, new weights."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parallel.chunk is not None and not self.chunks:
            raise ConfigError("parallel.chunk: only runs on pairs have micro-batches; set it to null")

    def fingerprint(self, data: Iterable[str] = ()) -> str:
        """Return a hash of the configuration, and of the data by the names of their samples or shards.

        Settings at their defaults do not count, so that new settings do not change the fingerprint of old runs.
        """
        digest = hashlib.sha256(json.dumps(_chosen(self), sort_keys=True).encode())
        for name in data:
            digest.update(b"\0" + name.encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]


Config = TypeVar("Config", bound=TrainingConfig)


def debug_loop(config: Config) -> Config:
    """Return a configuration for a four-step run, with its batches, reports and checkpoints."""
    return dataclasses.replace(
        config,
        batch_size=16,
        warmup=1,
        parallel=ParallelConfig(),
        validation=None if config.validation is None else dataclasses.replace(config.validation, every=2),
        log_every=1,
        checkpoint_every=2,
    )


def _chosen(value: Any) -> Any:
    """Return the settings that differ from their defaults, including those in nested dataclasses."""
    if isinstance(value, Mapping):
        return {name: _chosen(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_chosen(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    chosen = {}
    for field_ in dataclasses.fields(value):
        factory = field_.default_factory
        default = field_.default if factory is dataclasses.MISSING else factory()
        if getattr(value, field_.name) != default:
            chosen[field_.name] = _chosen(getattr(value, field_.name))
    return chosen
