"""Scores of a metric over a model's layers, and the recommended layer.

The best of many layers looks better than it is, because it was chosen on the items that it is evaluated on. So the
interval of its advantage over the last layer holds for all layers at once (Bonferroni), and the best layer is
recommended only if that interval excludes zero. Without an interval (see bootstrap.py) all layers are equally good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perception_encoder.evaluation.comparison import format_value
from perception_encoder.evaluation.statistics.bootstrap import Estimate, EstimatedDifference
from perception_encoder.evaluation.statistics.scores import Score, estimate
from perception_encoder.records import from_fields

DIGITS = 6
"""Decimals of a draw and of a block's contribution in JSON."""


@dataclass(frozen=True, kw_only=True)
class LayerScore(Estimate):
    """A metric at one layer; all layers and models use the same draws, so that differences pair."""

    name: str
    n: int
    """Number of items."""
    pool: str
    """The `pe embed --pool` for this metric: "mean" for one embedding per image, "tokens" for a map."""
    lower_is_better: bool = False

    @classmethod
    def of(cls, score: Score) -> LayerScore:
        """Return an evaluator's score with its draws."""
        pool, values = score.settings.get("pool", "tokens"), vars(estimate(score.items))
        return cls(**values, name=score.name, n=score.n, pool=pool, lower_is_better=score.lower_is_better)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        arrays = {name: value for name in ("draws", "by_block") if (value := getattr(self, name)) is not None}
        return {**vars(self), **{name: [round(float(v), DIGITS) for v in values] for name, values in arrays.items()}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LayerScore:
        """Read the result of `to_dict`; ValueError for anything else."""
        return from_fields(cls, value)


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """A metric of one task over the layers of a model."""

    model: str
    task: str
    metric: str
    depth: int
    """Number of layers of the model."""
    scores: dict[int, LayerScore]
    """Scores by layer, ascending."""

    @property
    def unit(self) -> str:
        """See `LayerScore`."""
        return self.scores[self.last].unit

    @property
    def pool(self) -> str:
        """See `LayerScore`."""
        return self.scores[self.last].pool

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower score is better."""
        return self.scores[self.last].lower_is_better

    @property
    def last(self) -> int:
        """The last layer, the model's output: it is always evaluated."""
        return max(self.scores)

    @property
    def best(self) -> int:
        """The layer with the best score; the earliest on a tie."""
        sign = -1 if self.lower_is_better else 1
        return max(self.scores, key=lambda layer: (sign * self.scores[layer].value, -layer))


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best layer of a curve compared with the last."""

    curve: LayerCurve
    best: int
    last: int
    gain: Score
    """Gain of the best layer over the last on the same items; at least 0, also for errors. Its interval holds for
    all layers at once."""
    as_good: tuple[int, ...]
    """Other layers that are not shown to be worse than the best."""

    @property
    def is_real(self) -> bool:
        """Whether the interval of the gain excludes zero."""
        return self.gain.interval is not None and self.gain.interval[0] > 0

    @property
    def layer(self) -> int:
        """The recommended layer: the best, or the last unless the best is shown to be better."""
        return self.best if self.is_real else self.last

    @property
    def command(self) -> str:
        """The options for `pe embed`."""
        return f"--layer {self.layer} --pool {self.curve.pool}"

    def text(self) -> str:
        """Return the recommendation in plain words."""
        curve, best, last = self.curve, self.best, self.last
        at_best, at_last = (format_value(curve.scores[layer].value, curve.unit) for layer in (best, last))
        if best == last:
            return f"Take the last layer, {last}: {at_last}; no other is better. {self._peers()}".strip()
        if self.gain.interval is None:
            return (
                f"The last layer, {last}, has {at_last}, layer {best} has {at_best}; without an interval (one block, "
                "or one seed of a head) this shows nothing."
            )
        between = format_difference(*self.gain.interval, curve.unit)
        if not self.is_real:
            return (
                f"Take the last layer, {last}: {at_last}. Layer {best} has {at_best}, but these items do not show that "
                f"it is better (difference {between})."
            )
        gain = format_difference(self.gain.value, None, curve.unit)
        return (
            f"Take layer {best}: {at_best} against {at_last} at the last layer, {last}; that is {gain} better "
            f"(95 % interval {between}). {self._peers()}"
        ).strip()

    def _peers(self) -> str:
        names = ", ".join(map(str, self.as_good))
        subject = f"Layer {names} is" if len(self.as_good) == 1 else f"Layers {names} are"
        return f"{subject} not shown to be worse on these items." if names else ""


def recommend(curve: LayerCurve) -> Recommendation:
    """Compare a curve's layers."""
    best, last, others = curve.best, curve.last, len(curve.scores) - 1

    def gain(layer: int) -> EstimatedDifference:
        """Return by how much the best layer exceeds another."""
        one, other = curve.scores[best], curve.scores[layer]
        return other.less(one) if curve.lower_is_better else one.less(other)

    over_last, items = gain(last), curve.scores[best].n
    interval = over_last.interval(max(1, others))
    metric = Score(name=curve.metric, value=over_last.value, n=items, interval=interval, unit=curve.unit)
    intervals = {layer: gain(layer).interval(others) for layer in curve.scores if layer != best}
    as_good = tuple(layer for layer, ends in intervals.items() if ends is None or ends[0] <= 0)
    return Recommendation(curve=curve, best=best, last=last, gain=metric, as_good=as_good)


def format_difference(low: float, high: float | None, unit: str) -> str:
    """Return a difference of scores, or an interval's ends, with the unit; shares in points."""
    ends = [low] if high is None else [low, high]
    numbers = [f"{100 * end:.1f}" if unit == "%" else f"{end:.3f}" for end in ends]
    return f"{' to '.join(numbers)} {'points' if unit == '%' else unit}".strip().replace("-", "−")
