"""Define what the training loop needs of a stage, the losses of a batch, and what tasks on two towers share."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from perception_encoder.training.validation import Validation

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1


class Task(Protocol):
    """A stage: what is trained, and the losses of a batch (their sum is minimised)."""

    model: nn.Module
    """All that is trained and saved; the loop puts its parallel form in its place."""
    validation: Validation | None
    """How the model is scored while it trains."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return scalar losses of one batch by name; of a rank's part of one, its parts of them."""
        ...

    def report(self) -> dict[str, float]:
        """Return what else a report should show, such as the logit scale."""
        ...

    def after_step(self) -> None:
        """Keep parameters in their bounds after an optimizer step."""
        ...


class ImageTextTask:
    """A task without its losses, for models of which one parameter is called `logit_scale`."""

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
