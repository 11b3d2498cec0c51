"""What curves over layers say: best against output, against random weights, and what a change of the recipe does.

All curves of a task are measured on the same items, drawn anew in the same way, so every difference is paired. A gap's
interval is the one of `recommend`, which pays for the choice of the best of many layers. Where two models are compared,
each has the best layer that it has on all items. Whichever way a task's figure points, more is better here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_encoder.errors import DataError
from perception_encoder.evaluation.metrics import INTERVAL
from perception_encoder.layer_analysis.recommendation import recommend
from perception_encoder.layer_analysis.sweep import LayerCurve

PARTS = ("best", "output", "gap")
"""Of a curve: its best layer, its last, and how far the last is behind."""
DIGITS = 5

Curves = Mapping[str, Mapping[str, LayerCurve]]
"""By model and task."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Pairs of models that differ in one thing."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    """Before and after the change, all else equal."""


def curve_rows(curves: Curves, beside: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Every curve: its figures, best and output, the gap, and how far the best is above random weights' best.

    `beside`: by model, the one with random weights; None for a baseline.
    """
    rows = []
    for model, found in curves.items():
        for task, curve in found.items():
            metrics = [score.metric for score in curve.scores.values()]
            said = recommend(curve)
            row = {
                "model": model,
                "task": task,
                **{name: getattr(curve, name) for name in ("figure", "unit", "lower_is_better", "depth")},
                "items": metrics[0].n,
                "layers": list(curve.scores),
                "values": [round(metric.value, DIGITS) for metric in metrics],
                "low": [round(metric.ci[0], DIGITS) for metric in metrics],
                "high": [round(metric.ci[1], DIGITS) for metric in metrics],
                "best": said.best,
                "gap": {"value": round(said.gain.value, DIGITS), "ci": [round(end, DIGITS) for end in said.gain.ci]},
                "as_good": list(said.as_good),
            }
            baseline = beside.get(model)
            if baseline is not None:
                row["above_random"] = effect([(curves[baseline][task], curve)], "best")
            rows.append(row)
    return rows


def effect_rows(curves: Curves, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
    """What each change does to each part of each task's curve, the mean of its pairs, and every pair's own difference.

    "depth" is how far up the best layer moves, as a share of the tower; it has no interval.
    """
    rows = []
    for contrast in contrasts:
        for task in curves[contrast.pairs[0][0]]:
            pairs = [(curves[before][task], curves[after][task]) for before, after in contrast.pairs]
            rows.append(
                {
                    "contrast": contrast.name,
                    "task": task,
                    "unit": pairs[0][0].unit,
                    **{part: effect(pairs, part) for part in PARTS},
                    "depth": [round(relative(after) - relative(before), DIGITS) for before, after in pairs],
                }
            )
    return rows


def relative(curve: LayerCurve) -> float:
    """Where the best layer is: 0 the first, 1 the last."""
    return curve.best / max(1, curve.depth - 1)


def effect(pairs: Sequence[tuple[LayerCurve, LayerCurve]], part: str) -> dict[str, Any]:
    """The mean difference of a part over pairs, its interval, and the pairs' own differences; more is better.

    DataError where a pair was not measured on the same items.
    """
    values, drawn = [], []
    for before, after in pairs:
        (old, old_drawn), (new, new_drawn) = _part(before, part), _part(after, part)
        if old_drawn.shape != new_drawn.shape or _items(before) != _items(after):
            raise DataError(f"{before.model} and {after.model} were measured on other items at {after.task}")
        values.append(new - old)
        drawn.append(new_drawn - old_drawn)
    low, high = np.nanpercentile(np.mean(drawn, axis=0), INTERVAL)
    return {
        "value": round(float(np.mean(values)), DIGITS),
        "ci": [round(float(low), DIGITS), round(float(high), DIGITS)],
        "pairs": [round(value, DIGITS) for value in values],
    }


def claim(found: Mapping[str, Any]) -> str:
    """ "more" or "less" where the interval leaves out zero and no pair says otherwise, else "none"."""
    (low, high), pairs = found["ci"], found["pairs"]
    if low > 0 and min(pairs) > 0:
        return "more"
    return "less" if high < 0 and max(pairs) < 0 else "none"


def _items(curve: LayerCurve) -> int:
    return next(iter(curve.scores.values())).n


def _part(curve: LayerCurve, part: str) -> tuple[float, np.ndarray]:
    """A part's value and its draws (R,), so that more is better; of a gap, wider is more."""
    sign = -1.0 if curve.lower_is_better else 1.0
    best, last = curve.scores[curve.best], curve.scores[curve.last]
    if part == "gap":
        return sign * (best.value - last.value), sign * (best.drawn - last.drawn)
    score = best if part == "best" else last
    return sign * score.value, sign * score.drawn
