"""Differences: their rows, what is claimed of several, and how pages print them."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.differences import Gap, find_signs, format_gap, gain, to_gap
from perception_encoder.layer_analysis.sweep import LayerScore


def score(value: float, *, lower: bool, by_seed: tuple[float, ...] = ()) -> LayerScore:
    draws = value + np.random.default_rng(0).normal(size=50) / 100
    unit = "m" if lower else "%"
    fields = {"value": value, "draws": draws, "blocks": 30, "by_seed": by_seed}
    return LayerScore(name="x", n=9, pool="tokens", unit=unit, lower_is_better=lower, **fields)


def test_a_smaller_error_is_a_gain() -> None:
    row = gain(score(0.3, lower=True), score(0.5, lower=True))
    assert (row["unit"], row["value"], row["blocks"]) == ("m", 0.2, 30) and 0 < row["standard_error"] < 0.02
    assert gain(score(0.3, lower=False), score(0.5, lower=False))["value"] == -0.2


def test_only_a_significant_difference_is_bold() -> None:
    gap = Gap(value=0.02, unit="%", parts=((0.005**2, 99),))
    assert format_gap(gap, 1) == "**2.0 points (1.0 to 3.0 points)**"
    assert format_gap(gap) == "2.0 points (1.0 to 3.0 points)"
    assert format_gap(Gap(value=0.02, unit="%")) == "2.0 points" and format_gap(None) == ""


def test_the_more_differences_the_fewer_claims() -> None:
    gap = Gap(value=-0.012, unit="%", parts=((0.005**2, 99),))  # p is 0.018
    unknown = Gap(value=9, unit="%")
    assert find_signs({"a": gap}) == {"a": -1}
    assert find_signs({"a": gap, "b": unknown, "c": unknown}) == {"a": 0, "b": 0, "c": 0}
    assert find_signs({"a": Gap(value=-0.012, unit="%", parts=gap.parts, choices=3)}) == {"a": 0}
    clear = Gap(value=0.1, unit="%", parts=gap.parts)
    assert find_signs({"a": gap, "b": clear}) == {"a": -1, "b": 1}


def test_the_effect_of_seeds_is_pooled_or_the_pairs_own_if_that_is_larger() -> None:
    row = {"value": 0.05, "standard_error": 0.01, "blocks": 101}
    agree, others = (0.2, 0.2), [(0.1, 0.14), (0.3, 0.3)]
    gap = to_gap(row, agree, (0.15, 0.15), [agree, (0.15, 0.15), *others])
    pooled = 0.0008 / 4  # a variance of 0.0008 and three of 0, over four degrees of freedom
    assert gap.parts[0] == (pytest.approx(0.01**2), 100) and gap.parts[1] == (pytest.approx(pooled), 4)
    one_side = to_gap(row, agree, (), [agree, *others])
    assert one_side.parts[1] == (pytest.approx(0.0008 / 3 / 2), 3)
    separate = to_gap(row, (0.1, 0.3), (0.15, 0.15), [(0.1, 0.3), (0.15, 0.15), *others])
    assert separate.parts[1][0] == pytest.approx(0.02 / 2)
    assert to_gap(row).parts == (gap.parts[0],)
    assert not to_gap(row, (0.2,), (0.15,), [(0.2,), (0.15,)]).parts  # one seed
    assert not to_gap({**row, "standard_error": None}).parts and not to_gap({**row, "standard_error": 0.0}).parts


def test_of_a_page_without_true_differences_few_have_a_claim() -> None:
    """20 comparisons of two seeds each; uncorrected, two of three pages would have a claim."""
    rng, trials = np.random.default_rng(0), 100
    wrong = 0
    for _ in range(trials):
        runs, base = rng.normal(size=(20, 2)), rng.normal(size=2)
        kinds = [*runs.tolist(), base.tolist()]
        gaps = {}
        for place, run in enumerate(runs):
            value = float((run - base).mean() + rng.normal())
            row = {"value": value, "standard_error": 1.0, "blocks": 300}
            gaps[place] = to_gap(row, run.tolist(), base.tolist(), kinds)
        wrong += any(find_signs(gaps).values())
    assert wrong / trials <= 0.08
