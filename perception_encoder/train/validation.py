"""Validate a model while it trains: what a stage brings to the loop, and which of two steps is better."""

from __future__ import annotations

import math
from typing import Protocol


class Validation(Protocol):
    """Scores of a model on data that it is not trained on."""

    @property
    def every(self) -> int:
        """Steps between validations; the last step of a run is validated, too."""
        ...

    @property
    def metric(self) -> str:
        """The score by which steps are compared."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is a better one; else a lower one is."""
        ...

    def __call__(self, step: int) -> dict[str, float]:
        """Return scores by metric after so many steps; all ranks call it, and training must not depend on it."""
        ...


def is_due(validation: Validation | None, done: int, steps: int) -> bool:
    """Return whether a run of `steps` is validated after `done` of them."""
    return validation is not None and (done % validation.every == 0 or done == steps)


def is_better(score: float, best: float | None, higher_is_better: bool) -> bool:
    """Return whether a score is better than the best one so far; one that is not finite never is."""
    if not math.isfinite(score):
        return False
    return best is None or (score > best if higher_is_better else score < best)
