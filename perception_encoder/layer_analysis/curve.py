"""The scores of a metric over the layers of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perception_encoder.evaluation.statistics.bootstrap import Estimate, Metric
from perception_encoder.evaluation.statistics.scores import Scores, estimate
from perception_encoder.records import from_fields

DIGITS = 6
"""Of a draw in JSON."""


@dataclass(frozen=True, kw_only=True)
class LayerScore(Estimate):
    """A metric at one layer; its draws are those of every layer and model, so that differences pair."""

    name: str
    n: int
    """The number of items."""
    pool: str
    """The `pe embed --pool` for such work: "mean" for an embedding an image, "tokens" for a map."""
    unit: str = "%"
    """"%" of a share in 0–1, "m", or nothing."""
    lower_is_better: bool = False

    @classmethod
    def of(cls, scores: Sequence[Scores], pool: str) -> LayerScore:
        """Score one metric, of one or several head seeds."""
        first = scores[0]
        return cls(
            **vars(estimate(scores)),
            name=first.metric,
            n=first.items,
            pool=pool,
            unit=first.unit,
            lower_is_better=first.lower_is_better,
        )

    def as_metric(self) -> Metric:
        """Return the value with its interval."""
        return self.metric(self.name, self.n, self.unit, self.lower_is_better)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return {**vars(self), "draws": [round(float(value), DIGITS) for value in self.draws]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LayerScore:
        """Read what `to_dict` returned; ValueError for anything else."""
        return from_fields(cls, value)


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """A metric of one task over the layers of a model."""

    model: str
    task: str
    metric: str
    depth: int
    """The number of layers that the model has."""
    scores: dict[int, LayerScore]
    """By layer, ascending."""

    @property
    def unit(self) -> str:
        """ "%" of a share in 0–1, "m", or nothing."""
        return next(iter(self.scores.values())).unit

    @property
    def pool(self) -> str:
        """The `pe embed --pool` for such work."""
        return next(iter(self.scores.values())).pool

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower score is better."""
        return next(iter(self.scores.values())).lower_is_better

    @property
    def last(self) -> int:
        """The last layer, the model's output: it is always evaluated."""
        return max(self.scores)

    @property
    def best(self) -> int:
        """The layer with the best score, the earliest if several have it."""
        sign = -1 if self.lower_is_better else 1
        return max(self.scores, key=lambda layer: (sign * self.scores[layer].value, -layer))
