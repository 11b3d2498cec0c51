"""Define what the training loop needs of a stage: the losses of a batch."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from perception_encoder.train.validation import Validation


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
