"""Run a finetuning: pretraining's run, of the model and at the size that `FinetuningConfig.pretraining` finds."""

from __future__ import annotations

from perception_encoder.pretraining.run import pretrain as finetune

__all__ = ["finetune"]
