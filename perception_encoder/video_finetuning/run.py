"""Run a video finetuning: pretraining's run, on frames of videos in shards (section 2.4)."""

from __future__ import annotations

from perception_encoder.pretraining.run import pretrain as finetune_on_videos

__all__ = ["finetune_on_videos"]
