"""A stage's part of the training loop: a model, the losses of a batch, and validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from torch import Tensor, nn

from perception_encoder.errors import ConfigError
from perception_encoder.records import Checked, Count, Range


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """Score the model during training; the weights with the best score are written beside the last ones."""

    every: Count = 100
    """Steps between validations; the last step is always validated."""
    metric: str | None = None
    """Metric that selects the best step, by default the task's first. For image-text pairs: "retrieval", the mean of
    the R@1 from images to captions ("image_to_text") and from captions to images ("text_to_image"), or "zero_shot", the
    top-1 accuracy over the labels, for data in memory."""
    share: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.05
    """Share of each source to hold out if the data have no split `val`; with 0, a run is validated only if they
    have one."""
    size: Count = 1000
    """Maximum number of samples."""


class Validation(Protocol):
    """Scores a model on held-out data."""

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Return whether higher is better for each metric, the default one first."""
        ...

    def validate(self, metric: str) -> dict[str, float]:
        """Return scores by metric, or none if the data give none; all ranks call it. Training must not depend on it."""
        ...


def choose_metric(config: ValidationConfig, higher_is_better: Mapping[str, bool]) -> str:
    """Return the metric that selects the best step; ConfigError lists the task's metrics."""
    metric = config.metric or next(iter(higher_is_better), None)
    if metric is None or metric not in higher_is_better:
        known = ", ".join(higher_is_better) or "none; set validation=null"
        raise ConfigError(f"validation.metric is {config.metric!r}; the task has {known}")
    return metric


def is_better(score: float, best: float | None, higher_is_better: bool) -> bool:
    """Return whether a score beats the best one so far; non-finite scores never do."""
    if not math.isfinite(score):
        return False
    return best is None or (score > best if higher_is_better else score < best)


class Task(Protocol):
    """A model and the losses of a batch, whose sum is minimised."""

    model: nn.Module  # everything trained and saved; the loop replaces it by its parallel form
    validation: Validation | None  # scores the model during training

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name; with several ranks, this rank's shares."""
        ...

    def report(self) -> dict[str, float]:
        """Return additional values for reports, such as the logit scale; by default none."""
        return {}

    def after_step(self) -> None:
        """Clamp parameters after an optimizer step; by default none."""
        return
