"""Configure a finetuning: a published checkpoint, or one's own, trained on one's own pairs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.config import PairConfig, PretrainingConfig
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(PairConfig):
    """What is trained further, and how; the model is that of the weights, and all sources of the data are used."""

    initial: str = BUILTIN
    """Name, alias or path of a two-tower model."""
    steps: int = 300
    """Optimizer steps of the whole run."""
    image_size: int | None = None
    """Side of the training images, in pixels; by default the model's own."""
    batch_size: int = 128
    warmup: int = 30
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-4))
    augmentation: Augmentation | None = field(default_factory=lambda: Augmentation(scale=(0.5, 1.0)))
    validation: ValidationConfig | None = field(default_factory=lambda: ValidationConfig(share=0.0))
    """Score the model while it trains: by default on the split `val`, if the data have one."""
    checkpoint_every: int = 100

    def pretraining(self) -> PretrainingConfig:
        """Return the run as a pretraining; ConfigError if `initial` has no text tower, and what `find_entry` raises."""
        entry = find_entry(self.initial)
        if entry.text is None:
            raise ConfigError(f"initial is {self.initial}, which has no text tower; finetuning on pairs needs both")
        size = self.image_size or entry.vision.image_size
        return PretrainingConfig(
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(PairConfig)},
            model=entry.name,
            stages=(Stage(image_size=size, steps=self.steps),),
            image_side=size + size // 4,
        )
