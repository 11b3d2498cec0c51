"""Share what tasks on two towers need: the logit scale, reported and bounded, and samples left out."""

from __future__ import annotations

import math

import torch
from torch import nn

from perception_encoder.train.validation import Validation

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1


class ImageTextTask:
    """The half of a task that knows no loss, for models of which one parameter is called `logit_scale`."""

    def __init__(self, model: nn.Module, validation: Validation | None = None) -> None:
        self.model, self.validation, self.left_out = model, validation, 0

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the logit scale."""
        (scale,) = (p for name, p in self.model.named_parameters() if name.endswith("logit_scale"))
        return scale

    def report(self) -> dict[str, float]:
        """The logit scale, and how many samples could not be read so far, if any."""
        left_out = {"left_out": float(self.left_out)} if self.left_out else {}
        return {"logit_scale": round(self.logit_scale.exp().item(), 3), **left_out}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scale at or below its maximum."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
