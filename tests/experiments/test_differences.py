"""Differences: their sign, and how pages print them."""

from __future__ import annotations

import numpy as np

from experiments.differences import format_gain, gain, sign_of
from perception_encoder.layer_analysis.curve import LayerScore


def score(value: float, *, lower: bool) -> LayerScore:
    draws = value + np.random.default_rng(0).normal(size=50) / 100
    unit = "m" if lower else "%"
    return LayerScore(
        name="x", n=9, pool="tokens", unit=unit, lower_is_better=lower, value=value, draws=draws, blocks=30
    )


def test_a_smaller_error_is_a_gain() -> None:
    assert gain(score(0.3, lower=True), score(0.5, lower=True)) == {"unit": "m", "value": 0.2, "interval": [0.2, 0.2]}
    assert gain(score(0.3, lower=False), score(0.5, lower=False))["value"] == -0.2


def test_only_an_interval_without_zero_is_bold() -> None:
    row = {"unit": "%", "value": 0.02, "interval": [0.01, 0.03]}
    assert (sign_of(row), format_gain(row)) == (1, "**2.0 points (1.0 to 3.0 points)**")
    row["interval"] = [-0.01, 0.05]
    assert (sign_of(row), format_gain(row)) == (0, "2.0 points (−1.0 to 5.0 points)")
    assert sign_of({**row, "interval": [-0.2, -0.1]}) == -1
    assert (sign_of({**row, "interval": None}), format_gain({**row, "interval": None})) == (0, "2.0 points")
    assert format_gain(None) == ""
