"""Which layer to take for a task, in words: best against last, and how sure that is.

The best layer of many looks better than it is, since it was chosen on the very items that it is measured on. So it is
also said how often it comes out best when the items are drawn anew, and which layers are as good as it within the
interval of the paired difference. An advantage over the last layer is called one only where that interval leaves out
zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_encoder.evaluation.metrics import INTERVAL
from perception_encoder.evaluation.protocol import Metric
from perception_encoder.layer_analysis.sweep import LayerCurve


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Best against last, of one curve."""

    curve: LayerCurve
    best: int
    last: int
    gain: Metric
    """How much better the best is than the last, on the same items; at least 0 whichever way the figure points."""
    best_share: float
    """In which share of the draws this layer comes out best."""
    as_good: tuple[int, ...]
    """Other layers whose difference to the best is none within its interval."""

    @property
    def is_real(self) -> bool:
        """Whether the interval of the gain leaves out zero."""
        return self.gain.ci[0] > 0

    @property
    def command(self) -> str:
        """What `pe embed` is to be told."""
        return f"--layer {self.best} --pool {self.curve.pool}"

    def text(self) -> str:
        """The recommendation in plain words."""
        curve, unit = self.curve, self.curve.unit
        value = {layer: show(curve.scores[layer].value, unit) for layer in (self.best, self.last)}
        if self.best == self.last:
            return f"Take the last layer, {self.last}: {value[self.last]}. No earlier one is better. {self._peers()}".strip()
        between = f"{show(self.gain.ci[0], unit)} to {show(self.gain.ci[1], unit)}"
        if not self.is_real:
            return (
                f"Layer {self.best} has {value[self.best]} and the last layer, {self.last}, {value[self.last]}; these items "
                f"cannot tell them apart (difference {between}). The last layer will do."
            )
        return (
            f"Take layer {self.best} of 0–{curve.depth - 1}: {value[self.best]} against {value[self.last]} at the last layer, "
            f"{show(self.gain.value, unit)} better (95 % interval {between}). It comes out best in "
            f"{self.best_share:.0%} of draws. {self._peers()}"
        ).strip()

    def _peers(self) -> str:
        if not self.as_good:
            return ""
        several = len(self.as_good) > 1
        names = f"{'Layers' if several else 'Layer'} {', '.join(map(str, self.as_good))}"
        return f"{names} cannot be told from it on these items."


def recommend(curve: LayerCurve) -> Recommendation:
    """Compare a curve's layers."""
    sign = -1.0 if curve.lower_is_better else 1.0
    layers = list(curve.scores)
    drawn = sign * np.stack([curve.scores[layer].drawn for layer in layers])  # (L, R)
    best, last = curve.best, curve.last
    ours = drawn[layers.index(best)]
    lead = {layer: ours - each for layer, each in zip(layers, drawn, strict=True)}
    low, high = np.nanpercentile(lead[last], INTERVAL)
    gain = sign * (curve.scores[best].value - curve.scores[last].value)
    return Recommendation(
        curve=curve,
        best=best,
        last=last,
        gain=Metric(curve.figure, gain, curve.scores[best].n, (float(low), float(high))),
        best_share=float((np.nanargmax(drawn, axis=0) == layers.index(best)).mean()),
        as_good=tuple(layer for layer in layers if layer != best and np.nanpercentile(lead[layer], INTERVAL[0]) <= 0),
    )


def show(value: float, unit: str) -> str:
    """A figure with its unit: a share in percent, a length in metres."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}{' ' + unit if unit else ''}"
