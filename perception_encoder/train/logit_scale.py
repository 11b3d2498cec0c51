"""The logit scale that contrastive models learn, as its logarithm: found, reported, and kept within its bound."""

from __future__ import annotations

import math

import torch
from torch import nn

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1


class LearnsLogitScale:
    """Half of a task: for `model`s of which one parameter is called `logit_scale`."""

    model: nn.Module

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the logit scale."""
        (found,) = (p for name, p in self.model.named_parameters() if name.endswith("logit_scale"))
        return found

    def report(self) -> dict[str, float]:
        """The logit scale."""
        return {"logit_scale": round(self.logit_scale.exp().item(), 3)}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scale at or below its maximum."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
