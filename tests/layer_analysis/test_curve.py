"""Scores survive JSON; a curve knows its best layer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from perception_encoder.layer_analysis.curve import LayerCurve, LayerScore

SCORE = LayerScore(name="RMSE", value=0.3, n=9, draws=np.array([0.25, 0.35]), blocks=3, by_seed=(0.2, 0.4), pool="mean")


def test_a_score_comes_back_from_json() -> None:
    read = LayerScore.from_dict(json.loads(json.dumps(SCORE.to_dict())))
    assert read.draws.tolist() == SCORE.draws.tolist() and replace(read, draws=SCORE.draws) == SCORE


def test_the_best_layer_is_the_earliest_of_the_best() -> None:
    scores = {layer: replace(SCORE, value=value) for layer, value in ((0, 0.3), (2, 0.5), (4, 0.5), (5, 0.1))}
    curve = LayerCurve(model="m", task="t", metric="RMSE", depth=6, scores=scores)
    assert (curve.best, curve.last, curve.unit, curve.pool) == (2, 5, "%", "mean")
    errors = {layer: replace(score, lower_is_better=True) for layer, score in scores.items()}
    assert replace(curve, scores=errors).best == 5
