"""Finetuning: a published checkpoint, or one's own, trained on one's own pairs; whole, one tower of it, or adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perception_encoder.data.pairs import Stage
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.lora import LoRA
from perception_encoder.pretraining.plan import Cluster, Plan, plan_pretraining
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.train.distributed import ParallelConfig
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """What is trained further, and how; the model is that of the weights, and all sources of the data are used."""

    initial: str = BUILTIN
    """Name, alias or path of a two-tower model."""
    initial_share: float = 0.0
    """Share of its weights in those that come out, which are a mean of both."""
    locked: str | None = None
    """A tower that keeps its weights: "visual" or "text"."""
    lora: LoRA | None = None
    """Adapters alone are trained, and merged into the weights at the end."""
    steps: int = 300
    batch_size: int = 128
    image_size: int | None = None
    """Side of the training pictures, in pixels; by default the model's own."""
    warmup: int = 30
    """Steps of linear warm-up."""
    balance: float = 0.5
    """How far rare labels of a source are repeated: 0 not at all, 1 until all labels are equally frequent."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-4))
    augmentation: Augmentation | None = field(default_factory=lambda: Augmentation(scale=(0.5, 1.0)))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    streams: StreamConfig = field(default_factory=StreamConfig)
    """How shards are read, where the data are not folders."""
    log_every: int = 20
    checkpoint_every: int = 100
    seed: int = 0

    def pretraining(self) -> PretrainingConfig:
        """The same as a complete run; ConfigError where `initial` has no text tower, and what `find_entry` raises."""
        entry = find_entry(self.initial)
        if entry.text is None:
            raise ConfigError(f"initial is {self.initial}, which has no text tower; finetuning on pairs needs both")
        size = self.image_size or entry.vision.image_size
        return PretrainingConfig(
            model=entry.name,
            initial=self.initial,
            initial_share=self.initial_share,
            locked=self.locked,
            lora=self.lora,
            stages=(Stage(image_size=size, steps=self.steps),),
            batch_size=self.batch_size,
            image_side=size + size // 4,
            warmup=self.warmup,
            balance=self.balance,
            optimizer=self.optimizer,
            augmentation=self.augmentation,
            parallel=self.parallel,
            streams=self.streams,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )


def finetune(
    config: FinetuningConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or go on with, a finetuning; returns the weights, as `pretrain` does."""
    return pretrain(config.pretraining(), data, out, track, listener)


def plan_finetuning(config: FinetuningConfig, cluster: Cluster) -> Plan:
    """What a finetuning costs on a cluster."""
    return plan_pretraining(config.pretraining(), cluster)
