"""Intervals: how often they hold, and how often a difference is claimed that is not there, in simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from perception_encoder.evaluation.statistics.bootstrap import contributions, student_interval
from perception_encoder.evaluation.statistics.scores import ItemScores, difference, estimate, measure
from perception_encoder.layer_analysis.curve import LayerScore

TRIALS = 300


def false_claims(blocks: int, seeds: int, of_blocks: float, of_seeds: float, frames: int = 1) -> float:
    """The share of intervals that leave out zero where it is true; each block has `frames` equal items."""
    rng = np.random.default_rng(blocks * 100 + seeds)
    names = [str(number) for number in range(blocks * frames)]
    of = [str(number // frames) for number in range(blocks * frames)]
    wrong = 0
    for _ in range(TRIALS):
        common = np.repeat(of_blocks * rng.normal(size=blocks), frames)
        values = common + of_seeds * rng.normal(size=(seeds, 1))
        plain = [replace(ItemScores.of("gap", each, names, blocks=of), seed=seed) for seed, each in enumerate(values)]
        ends = estimate([replace(plain[0], seed=None)] if seeds == 1 else plain).interval()
        assert ends is not None
        wrong += not ends[0] <= 0 <= ends[1]
    return wrong / TRIALS


@pytest.mark.parametrize(
    ("blocks", "seeds", "of_blocks", "of_seeds", "frames"),
    [(5, 1, 1.0, 0.0, 1), (5, 1, 1.0, 0.0, 10), (40, 1, 1.0, 0.0, 1), (30, 3, 1.0, 0.5, 1), (5, 3, 1.0, 1.0, 1)],
)
def test_a_difference_that_is_not_there_is_seldom_claimed(
    blocks: int, seeds: int, of_blocks: float, of_seeds: float, frames: int
) -> None:
    assert false_claims(blocks, seeds, of_blocks, of_seeds, frames) <= 0.085


def test_few_blocks_take_the_interval_of_the_paired_t_test() -> None:
    ours, theirs = np.random.default_rng(0).normal(size=(2, 5))
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    both = [ItemScores.of("error", values, list("abcde"), unit="m") for values in (ours, theirs)]
    result = difference(*both)
    assert result.interval == pytest.approx((wanted.low, wanted.high), rel=0.06)  # the variance is that of 1000 draws
    assert measure(both[0]).interval == pytest.approx(
        tuple(stats.ttest_1samp(ours, 0).confidence_interval(0.95)), rel=0.06
    )


def test_the_variances_of_blocks_and_of_seeds_are_added() -> None:
    by_seed = (0.1, 0.2, 0.6)
    ends = student_interval(0.3, 0.0, 50, by_seed)
    assert ends == pytest.approx(tuple(stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)))
    both = student_interval(0.3, 0.04, 50, by_seed)
    seeds = np.var(by_seed, ddof=1) / 3
    freedom = (0.04 + seeds) ** 2 / (0.04**2 / 49 + seeds**2 / 2)
    width = stats.t.ppf(0.975, freedom) * (0.04 + seeds) ** 0.5
    assert both == pytest.approx((0.3 - width, 0.3 + width))
    several = student_interval(0.3, 0.04, 50, by_seed, comparisons=7)
    assert several is not None and both is not None and several[1] - several[0] > both[1] - both[0]
    assert student_interval(0.3, 0.04, 1, ()) is None and student_interval(0.3, 0.04, 50, (0.3,)) is None


def test_the_interval_of_a_share_stays_within_0_and_1_and_that_of_its_difference_does_not() -> None:
    names = list("abcdef")
    ours = ItemScores.of("share", np.array([1, 1, 1, 1, 1, 0.5]), names)
    theirs = ItemScores.of("share", np.array([0, 0, 0, 0, 0, 0.5]), names)
    score = LayerScore.of([ours], "mean")
    free = score.interval()
    assert free is not None and free[1] > 1
    for metric in (score.as_metric(), measure(ours)):
        assert metric.interval == (pytest.approx(free[0]), 1.0)
    low = LayerScore.of([theirs], "mean").as_metric().interval
    assert low is not None and low[0] == 0
    in_metres = LayerScore.of([replace(ours, unit="m")], "mean").as_metric().interval
    assert in_metres is not None and in_metres[1] > 1
    gap = difference(ours, theirs).interval
    assert gap is not None and gap[1] > 1


def test_contributions_to_a_mean_are_the_items() -> None:
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, place).mean() for place in range(9)])
    np.testing.assert_allclose(contributions(values.mean(), without), values)
    without[4] = np.nan  # a metric that does not exist
    result = contributions(values.mean(), without)
    assert np.isfinite(result).all() and result.mean() == pytest.approx(values.mean())
