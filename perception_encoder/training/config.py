"""Define what the configurations of all training stages share, and what tells one run from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ABC):
    """How long and how fast to train, how often to save and validate, and which failures to survive.

    Each stage adds its own settings, and `steps`, as a property or as a field with a default.
    """

    batch_size: int = 256
    """Samples of a step, over all processes."""
    warmup: int = 200
    """Steps of linear warm-up."""
    drops: tuple[float, ...] = ()
    """The rate falls to a tenth after each of these shares of the steps; without them it follows a cosine to zero."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig | None = None
    """Score the model on a held-out part of the data while it trains."""
    keep: int = 2
    """Newest checkpoints that stay, beside the best."""
    skip_bad_losses: int = 0
    """Steps in a row whose loss is not finite that are left out; one more ends the run."""
    log_every: int = 20
    """Steps between reports."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is also written so long after the last one."""
    seed: int = 0
    """Of all that is drawn at random: data, augmentation, new weights."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    def __post_init__(self) -> None:
        check_least(self, {"batch_size": 1, "warmup": 0, "log_every": 1, "checkpoint_every": 1})
        check_least(self, {"checkpoint_minutes": 0, "seed": 0})
        if not all(0 < drop < 1 for drop in self.drops):
            raise ConfigError(f"drops are {self.drops}; they must be above 0 and below 1")

    def fingerprint(self, data: Iterable[str] = ()) -> str:
        """Return the identity of the configuration, and of the data by names of their samples or shards.

        A setting at its default does not count, so that a later version's new settings leave old runs what they are.
        """
        digest = hashlib.sha256(json.dumps(_chosen(self), sort_keys=True).encode())
        for name in data:
            digest.update(b"\0" + name.encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]


Config = TypeVar("Config", bound=TrainingConfig)


def check_least(config: TrainingConfig, least: Mapping[str, float]) -> None:
    """Raise ConfigError for a setting below its least value; None is allowed."""
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            raise ConfigError(f"{name} is {value}; it must be at least {lowest}")


def debug_loop(config: Config) -> Config:
    """Return a configuration with the batches, reports and checkpoints of a run of four steps."""
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
    """Return the settings that differ from their defaults, those of dataclasses inside likewise."""
    if isinstance(value, Mapping):
        return {name: _chosen(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_chosen(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    chosen = {}
    for each in dataclasses.fields(value):
        factory = each.default_factory
        default = each.default if factory is dataclasses.MISSING else factory()
        if getattr(value, each.name) != default:
            chosen[each.name] = _chosen(getattr(value, each.name))
    return chosen
