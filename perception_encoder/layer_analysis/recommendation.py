"""Which layer to take for a task, in words: best against last, and how sure that is.

The best layer of many looks better than it is, for it was chosen on the very items that it is measured on. So the
interval of its advantage over the last layer is one that holds for all layers at once (Bonferroni), and only where it
leaves out zero the best layer is recommended. It is also said which layers are as good: all that no such interval shows
to be worse. Where there is no interval (see bootstrap.py) nothing is shown, and all layers are as good.
"""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.evaluation.statistics.bootstrap import Estimate, Metric
from perception_encoder.layer_analysis.sweep import LayerCurve


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Best against last, of one curve."""

    curve: LayerCurve
    best: int
    last: int
    gain: Metric
    """How much better the best is than the last, on the same items; at least 0 whichever way the figure points. Its
    interval holds for all layers at once; None where there is none."""
    as_good: tuple[int, ...]
    """Other layers that are not shown to be worse than the best."""

    @property
    def is_real(self) -> bool:
        """Whether there is an interval of the gain that leaves out zero."""
        return self.gain.interval is not None and self.gain.interval[0] > 0

    @property
    def layer(self) -> int:
        """The layer to take: the best, or the last where that cannot be told from it."""
        return self.best if self.is_real else self.last

    @property
    def command(self) -> str:
        """What `pe embed` is to be told."""
        return f"--layer {self.layer} --pool {self.curve.pool}"

    def text(self) -> str:
        """The recommendation in plain words."""
        curve, best, last = self.curve, self.best, self.last
        value = {layer: show(curve.scores[layer].value, curve.unit) for layer in (best, last)}
        if best == last:
            return f"Take the last layer, {last}: {value[last]}; no other is better. {self._peers()}".strip()
        if self.gain.interval is None:
            return (
                f"The last layer, {last}, has {value[last]}, layer {best} {value[best]}; without an interval (one "
                "block, or one seed of a head) this shows nothing."
            )
        between = show_differences(*self.gain.interval, curve.unit)
        if not self.is_real:
            return (
                f"The last layer, {last}, will do: {value[last]}. Layer {best} has {value[best]}, which these items "
                f"cannot tell from it (difference {between})."
            )
        gain = show_differences(self.gain.value, None, curve.unit)
        return (
            f"Take layer {best}: {value[best]} against {value[last]} at the last layer, {last}; that is {gain} better "
            f"(95 % interval {between}). {self._peers()}"
        ).strip()

    def _peers(self) -> str:
        if not self.as_good:
            return ""
        several = len(self.as_good) > 1
        names = f"{'Layers' if several else 'Layer'} {', '.join(map(str, self.as_good))}"
        return f"{names} cannot be told from it on these items."


def recommend(curve: LayerCurve) -> Recommendation:
    """Compare a curve's layers."""
    best, last, others = curve.best, curve.last, len(curve.scores) - 1

    def gain(layer: int) -> Estimate:
        """How much better the best is than a layer."""
        one, other = curve.scores[best].estimate, curve.scores[layer].estimate
        return other.less(one) if curve.lower_is_better else one.less(other)

    found = gain(last)
    gains = {layer: gain(layer).interval(others) for layer in curve.scores if layer != best}
    return Recommendation(
        curve=curve,
        best=best,
        last=last,
        gain=Metric(
            name=curve.figure,
            value=found.value,
            n=curve.scores[best].n,
            interval=found.interval(max(1, others)),
            unit=curve.unit,
        ),
        as_good=tuple(layer for layer, ends in gains.items() if ends is None or ends[0] <= 0),
    )


def show(value: float, unit: str) -> str:
    """A figure with its unit: a share in percent, a length in metres."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}{' ' + unit if unit else ''}"


def show_differences(low: float, high: float | None, unit: str) -> str:
    """One difference of figures, or the ends of an interval; of shares in points."""
    ends = [low] if high is None else [low, high]
    shown = [f"{100 * end:.1f}" if unit == "%" else f"{end:.3f}" for end in ends]
    return f"{' to '.join(shown)} {'points' if unit == '%' else unit}".strip().replace("-", "−")
