"""What curves over layers say: which layers are as good as the best, how far the output is behind it, random weights.

The interval of a gap is that of `recommend`: it holds for all layers at once, and takes in the blocks that were scored
and the seeds of fitted heads. Each model was trained with one seed, so models are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.layer_analysis.recommendation import recommend
from perception_encoder.layer_analysis.sweep import LayerCurve

DIGITS = 5

Curves = Mapping[str, Mapping[str, LayerCurve]]
"""By model and task."""


def curve_rows(curves: Curves, beside: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Every curve: its figures, the layers as good as the best, the gap of the output, and random weights' best.

    `beside`: by model, the one with random weights; None for a baseline.
    """
    rows = []
    for model, found in curves.items():
        for task, curve in found.items():
            scores = list(curve.scores.values())
            said = recommend(curve)
            row = {
                "model": model,
                "task": task,
                **{name: getattr(curve, name) for name in ("figure", "unit", "lower_is_better", "depth")},
                "items": scores[0].n,
                "blocks": scores[0].blocks,
                "head_seeds": len(scores[0].by_seed),
                "layers": list(curve.scores),
                "values": [round(score.value, DIGITS) for score in scores],
                "ci": [_ends(score.metric) for score in scores],
                "by_seed": [[round(value, DIGITS) for value in score.by_seed] for score in scores],
                "best": said.best,
                "gap": {"value": round(said.gain.value, DIGITS), "ci": _ends(said.gain)},
                "as_good": list(said.as_good),
            }
            baseline = curves.get(beside.get(model) or "", {}).get(task)
            if baseline is not None:
                row["random_best"] = round(baseline.scores[baseline.best].value, DIGITS)
            rows.append(row)
    return rows


def _ends(metric: Metric) -> list[float] | None:
    """The interval's ends, rounded; None where there is none."""
    return None if metric.interval is None else [round(end, DIGITS) for end in metric.interval]
