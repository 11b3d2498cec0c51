"""Configure a video finetuning: pretraining's configuration, on frames (section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.pretraining.config import PretrainingConfig


@dataclass(frozen=True, kw_only=True)
class VideoFinetuningConfig(PretrainingConfig):
    """A pretraining of `frames` frames a video, from shards of videos with captions; nothing is masked or mixed."""
