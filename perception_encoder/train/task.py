"""Define what the training loop needs of a stage: the losses of a batch, and what they cost."""

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


class Cost(Protocol):
    """What a run costs, so that the loop can say how well the device is used and when the run will end."""

    def flops(self, batch: Any) -> float:
        """Floating-point operations of this rank's part of a batch, forward and backward."""
        ...

    def share(self, steps: int) -> float:
        """Share of the run's work that is done after so many steps."""
        ...
