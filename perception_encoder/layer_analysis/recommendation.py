"""Which layer to take for a task, in words: best against last, and how sure that is.

The best layer of many looks better than it is, for it was chosen on the very items that it is measured on. So the
interval of its advantage over the last layer is one that holds for all layers at once (as wide as the largest deviation
of any of them), and only where it leaves out zero the best layer is recommended. It is also said how often the layer
comes out best when the items are drawn anew, and which layers cannot be told from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_encoder.evaluation.metrics import INTERVAL
from perception_encoder.evaluation.protocol import Metric
from perception_encoder.layer_analysis.sweep import LayerCurve

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Best against last, of one curve."""

    curve: LayerCurve
    best: int
    last: int
    gain: Metric
    """How much better the best is than the last, on the same items; at least 0 whichever way the figure points. Its
    interval holds for all layers at once."""
    best_share: float
    """In which share of the draws this layer comes out best."""
    as_good: tuple[int, ...]
    """Other layers whose difference to the best is none within its interval."""

    @property
    def is_real(self) -> bool:
        """Whether the interval of the gain leaves out zero."""
        return self.gain.ci[0] > 0

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
        between = show_differences(*self.gain.ci, curve.unit)
        if not self.is_real:
            return (
                f"The last layer, {last}, will do: {value[last]}. Layer {best} has {value[best]}, which these items "
                f"cannot tell from it (difference {between})."
            )
        gain = show_differences(self.gain.value, None, curve.unit)
        return (
            f"Take layer {best}: {value[best]} against {value[last]} at the last layer, {last}; that is {gain} better "
            f"(95 % interval {between}). It is the best in {self.best_share:.0%} of draws. {self._peers()}"
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
    layers, best, last = list(curve.scores), curve.best, curve.last
    values = sign * np.array([curve.scores[layer].value for layer in layers])  # (L,)
    drawn = sign * np.stack([curve.scores[layer].drawn for layer in layers])  # (L, R)
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]  # some draws have no such figure: nothing that is to be found
    top, end = layers.index(best), layers.index(last)
    strayed = (drawn - drawn[end]) - (values - values[end])[:, None]
    width = float(np.percentile(np.abs(strayed).max(axis=0), 100 * CONFIDENCE))
    gain = float(values[top] - values[end])
    lowest = np.percentile(drawn[top] - drawn, INTERVAL[0], axis=1)
    return Recommendation(
        curve=curve,
        best=best,
        last=last,
        gain=Metric(curve.figure, gain, curve.scores[best].n, (gain - width, gain + width)),
        best_share=float((drawn.argmax(axis=0) == top).mean()),
        as_good=tuple(layer for layer, low in zip(layers, lowest, strict=True) if layer != best and low <= 0),
    )


def show(value: float, unit: str) -> str:
    """A figure with its unit: a share in percent, a length in metres."""
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.3f}{' ' + unit if unit else ''}"


def show_differences(low: float, high: float | None, unit: str) -> str:
    """One difference of figures, or the ends of an interval; of shares in points."""
    ends = [low] if high is None else [low, high]
    shown = [f"{100 * end:.1f}" if unit == "%" else f"{end:.3f}" for end in ends]
    return f"{' to '.join(shown)} {'points' if unit == '%' else unit}".strip().replace("-", "−")
