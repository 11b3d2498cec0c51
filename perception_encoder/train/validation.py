"""Validate a model while it trains: what a stage brings to the loop, and which of two steps is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from perception_encoder.errors import ConfigError

METRICS = ("retrieval", "zero_shot")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How a run is validated; the weights with the best score are written beside the last ones."""

    every: int = 100
    """Steps between validations; the last step is validated, too."""
    metric: str = "retrieval"
    """By which steps are compared: "retrieval", the mean of R@1 of images to captions and of captions to images, or
    "zero_shot", the top-1 accuracy over the labels, of data in memory."""
    share: float = 0.05
    """Share of each source that is held out of training if no directory has a split `val`; at 0 nothing is, and only a
    run whose data have one is validated."""
    size: int = 1000
    """Pairs, at most."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"validation.metric is {self.metric!r}; it must be 'retrieval' or 'zero_shot'")
        if not 0 <= self.share <= 0.5:
            raise ConfigError(f"validation.share is {self.share}; it must be from 0 to 0.5")
        for name in ("every", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"validation.{name} is {getattr(self, name)}; it must be at least 1")


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
