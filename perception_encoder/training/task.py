"""Define what the training loop needs from a stage: a model and the losses of a batch."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from perception_encoder.training.validation import Validation

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1


class Task(Protocol):
    """What is trained, and the losses of a batch, whose sum is minimised."""

    model: nn.Module
    """Everything that is trained and saved; the loop replaces it by its parallel form."""
    validation: Validation | None
    """Scores the model while it trains."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name; on several ranks this rank's shares of them."""
        ...

    def report(self) -> dict[str, float]:
        """Return further values for reports, such as the logit scale."""
        ...

    def after_step(self) -> None:
        """Clamp parameters after an optimizer step."""
        ...


class ImageTextTask:
    """Base of tasks on a model with a parameter called `logit_scale`."""

    def __init__(self, model: nn.Module, validation: Validation | None = None) -> None:
        self.model, self.validation, self.left_out = model, validation, 0

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the logit scale."""
        (scale,) = (p for name, p in self.model.named_parameters() if name.endswith("logit_scale"))
        return scale

    def report(self) -> dict[str, float]:
        """Return the logit scale, and how many samples could not be read so far, if any."""
        left_out = {"left_out": float(self.left_out)} if self.left_out else {}
        return {"logit_scale": round(self.logit_scale.exp().item(), 3), **left_out}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the logit scale to its maximum."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
