"""Run a video finetuning, as a pretraining on videos (section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception_encoder.data.streams import Shards
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.train.metrics import Listener
from perception_encoder.video_finetuning.config import VideoFinetuningConfig


def finetune_on_videos(
    config: VideoFinetuningConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, a video finetuning on shards; return the weights, as `pretrain` does."""
    return pretrain(config, data, out, track, listener)
