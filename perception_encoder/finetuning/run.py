"""Run a finetuning on one's own pairs, as a pretraining that begins with weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception_encoder.data.streams import Shards
from perception_encoder.finetuning.config import FinetuningConfig
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.train.metrics import Listener


def finetune(
    config: FinetuningConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, a finetuning; return the weights, as `pretrain` does."""
    return pretrain(config.pretraining(), data, out, track, listener)
