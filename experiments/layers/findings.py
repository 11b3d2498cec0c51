"""Summarise curves over layers: which layers are as good as the best, how far the output is behind, random weights.

The interval of a gap is that of `recommend`: it holds for all layers at once, and includes the evaluated blocks and the
seeds of fitted heads. Each model was trained with one seed, so models are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.layer_analysis.curve import LayerCurve
from perception_encoder.layer_analysis.recommendation import recommend

DIGITS = 5

Curves = Mapping[str, Mapping[str, LayerCurve]]
"""By model and task."""


def curve_rows(curves: Curves, baselines: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Return every curve: its scores, the layers as good as the best, the gap of the output, and the baseline's best.

    `baselines`: by model, the one with random weights; None for a baseline.
    """
    rows = []
    for model, by_task in curves.items():
        for task, curve in by_task.items():
            scores = list(curve.scores.values())
            result = recommend(curve)
            row = {
                "model": model,
                "task": task,
                **{name: getattr(curve, name) for name in ("metric", "unit", "lower_is_better", "depth")},
                "items": scores[0].n,
                "blocks": scores[0].blocks,
                "head_seeds": len(scores[0].by_seed),
                "layers": list(curve.scores),
                "values": [round(score.value, DIGITS) for score in scores],
                "interval": [_ends(score.as_metric()) for score in scores],
                "by_seed": [[round(value, DIGITS) for value in score.by_seed] for score in scores],
                "best": result.best,
                "gap": {"value": round(result.gain.value, DIGITS), "interval": _ends(result.gain)},
                "as_good": list(result.as_good),
            }
            baseline = curves.get(baselines.get(model) or "", {}).get(task)
            if baseline is not None:
                row["random_best"] = round(baseline.scores[baseline.best].value, DIGITS)
            rows.append(row)
    return rows


def _ends(metric: Metric) -> list[float] | None:
    """Return the ends of the interval, rounded; None without one."""
    return None if metric.interval is None else [round(end, DIGITS) for end in metric.interval]
