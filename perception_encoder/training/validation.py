"""Validate a model while it trains: how often and by which metric, what a task brings for it, and what is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from perception_encoder.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How a run is validated; the weights with the best score are written beside the last ones."""

    every: int = 100
    """Steps between validations; the last step is validated, too."""
    metric: str | None = None
    """By which steps are compared, by default the first of the task's. Of image-text pairs: "retrieval", the mean of
    R@1 of images to captions ("image_to_text") and of captions to images ("text_to_image"), or "zero_shot", the top-1
    accuracy over the labels, of data in memory."""
    share: float = 0.05
    """Share of each source that is held out of training if no directory has a split `val`; at 0 nothing is, and only a
    run whose data have one is validated."""
    size: int = 1000
    """Pairs, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ConfigError(f"validation.share is {self.share}; it must be from 0 to 0.5")
        for name in ("every", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"validation.{name} is {getattr(self, name)}; it must be at least 1")


class Validation(Protocol):
    """Scores of a model on data that it is not trained on; a task brings it."""

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """By metric, the default one first: whether a higher score is a better one; else a lower one is."""
        ...

    def validate(self, metric: str) -> dict[str, float]:
        """Return scores by metric, this one among them; all ranks call it, and training must not depend on it."""
        ...


def choose_metric(config: ValidationConfig, higher_is_better: Mapping[str, bool]) -> str:
    """Return the metric by which steps are compared; ConfigError lists those of the task."""
    metric = config.metric or next(iter(higher_is_better), None)
    if metric is None or metric not in higher_is_better:
        known = ", ".join(higher_is_better) or "none; set validation=null"
        raise ConfigError(f"validation.metric is {config.metric!r}; the task has {known}")
    return metric


def is_due(validation: ValidationConfig, done: int, steps: int) -> bool:
    """Return whether a run of `steps` is validated after `done` of them."""
    return done % validation.every == 0 or done == steps


def is_better(score: float, best: float | None, higher_is_better: bool) -> bool:
    """Return whether a score is better than the best one so far; one that is not finite never is."""
    if not math.isfinite(score):
        return False
    return best is None or (score > best if higher_is_better else score < best)
