"""What can be done with a configuration, by its class: the one place where stages of the paper are told apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perception_encoder.data.pairs import Stage
from perception_encoder.data.streams import Shards
from perception_encoder.distillation.run import DistillationConfig, distill, plan_distillation
from perception_encoder.finetuning.run import FinetuningConfig, finetune, plan_finetuning
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.plan import Cluster, Plan, plan_pretraining
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.train.distributed import ParallelConfig
from perception_encoder.train.metrics import Listener

P = TypeVar("P", bound=PretrainingConfig)


class RunConfig(Protocol):
    """A complete configuration: a frozen dataclass, one class a stage of the paper."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What can be done with the configurations of a class."""

    run: Callable[[Any, Sequence[Path | Shards], Path, Track, Listener | None], Path]
    """Train on folders or shards, or go on with it, into a folder; returns the weights."""
    debug: Callable[[Any], Any]
    """The same in four steps of a small model."""
    plan: Callable[[Any, Cluster], Plan]
    """What it costs on a cluster."""


def run(
    config: RunConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run a configuration, or go on with it; returns the weights that it wrote."""
    return KINDS[type(config)].run(config, data, out, track, listener)


def debug_form(config: RunConfig) -> RunConfig:
    """The same in four steps of a small model, to see that all works."""
    small: RunConfig = KINDS[type(config)].debug(config)
    return small


def plan(config: RunConfig, cluster: Cluster) -> Plan:
    """What a run costs on a cluster."""
    return KINDS[type(config)].plan(config, cluster)


def debug_pretraining(config: P) -> P:
    """The same steps of section 2.1, on the built-in model at two small resolutions."""
    return dataclasses.replace(
        config,
        model=BUILTIN,
        patch_size=None,
        initial=None if config.initial is None else BUILTIN,
        stages=(Stage(image_size=32, steps=2), Stage(image_size=48, steps=2)),
        batch_size=16,
        masking=None if config.masking is None else dataclasses.replace(config.masking, every=4),
        frames=None if config.frames is None else 2,
        parallel=ParallelConfig(),
        warmup=1,
        log_every=1,
        checkpoint_every=2,
    )


def debug_distillation(config: DistillationConfig) -> DistillationConfig:
    """The same losses, of the built-in model by itself."""
    return dataclasses.replace(debug_pretraining(config), teacher=BUILTIN)


def debug_finetuning(config: FinetuningConfig) -> FinetuningConfig:
    """The same adapters or tower, of the built-in model."""
    return dataclasses.replace(
        config, initial=BUILTIN, steps=4, image_size=32, batch_size=16, warmup=1, log_every=1, checkpoint_every=2
    )


KINDS: dict[type, Kind] = {
    PretrainingConfig: Kind(run=pretrain, debug=debug_pretraining, plan=plan_pretraining),
    DistillationConfig: Kind(run=distill, debug=debug_distillation, plan=plan_distillation),
    FinetuningConfig: Kind(run=finetune, debug=debug_finetuning, plan=plan_finetuning),
}
