"""What the training loop asks of a stage of the paper: losses of a batch, and nothing else."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """A stage: what is trained, and the losses of a batch (their sum is minimised)."""

    @property
    def model(self) -> nn.Module:
        """All that is trained and saved."""
        ...

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Named scalar losses of one batch."""
        ...

    def after_step(self) -> None:
        """Keep parameters in their bounds after an optimizer step."""
        ...
