"""Configure a finetuning: a published checkpoint, or one's own, trained on one's own pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception_encoder.data.pairs import Stage
from perception_encoder.data.streams import StreamConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.config import PretrainingConfig, ValidationConfig
from perception_encoder.pretraining.lora import LoRA
from perception_encoder.train.distributed import ParallelConfig
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
    """Only adapters are trained, and merged into the weights at the end."""
    steps: int = 300
    batch_size: int = 128
    image_size: int | None = None
    """Side of the training images, in pixels; by default the model's own."""
    warmup: int = 30
    """Steps of linear warm-up."""
    balance: float = 0.5
    """How far rare labels of a source are repeated: 0 not at all, 1 until all labels are equally frequent."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-4))
    augmentation: Augmentation | None = field(default_factory=lambda: Augmentation(scale=(0.5, 1.0)))
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    streams: StreamConfig = field(default_factory=StreamConfig)
    """How shards are read, if the data are shards."""
    validation: ValidationConfig | None = field(default_factory=lambda: ValidationConfig(share=0.0))
    """Score the model while it trains: by default on the split `val`, if the data have one."""
    log_every: int = 20
    checkpoint_every: int = 100
    seed: int = 0

    def pretraining(self) -> PretrainingConfig:
        """Return the run as a pretraining; ConfigError if `initial` has no text tower, and what `find_entry` raises."""
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
            validation=self.validation,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )
