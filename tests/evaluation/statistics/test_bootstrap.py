"""Intervals: how often they hold, and how often a difference is claimed that is not there, in simulation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import stats

from perception_encoder.evaluation.statistics.bootstrap import (
    Estimate,
    EstimatedDifference,
    contributions,
    holm,
    p_value,
    student_ends,
)
from perception_encoder.evaluation.statistics.scores import (
    ItemScores,
    estimate,
    estimate_difference,
    measure,
    measure_all,
)
from perception_encoder.layer_analysis.sweep import LayerScore

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
        plain = [replace(ItemScores.of("gap", value, names, blocks=of), seed=seed) for seed, value in enumerate(values)]
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
    result = estimate_difference(*both)
    assert result.interval() == pytest.approx((wanted.low, wanted.high), rel=0.06)  # the variance is that of 1000 draws
    assert measure(both[0]).interval == pytest.approx(
        tuple(stats.ttest_1samp(ours, 0).confidence_interval(0.95)), rel=0.06
    )


def test_from_20_blocks_on_the_ends_are_percentiles() -> None:
    draws = np.random.default_rng(0).exponential(size=1000)
    percentiles = tuple(np.percentile(draws, [2.5, 97.5]))
    for blocks in (19, 20):
        estimate = Estimate(value=1.0, draws=np.append(draws, np.nan), blocks=blocks)
        width = stats.t.ppf(0.975, blocks - 1) * draws.std() * (blocks / (blocks - 1)) ** 0.5
        both_sides = 1 - width, 1 + width
        assert estimate.interval() == pytest.approx(both_sides if blocks < 20 else percentiles)


def test_seeds_alone_or_blocks_alone_give_the_interval_of_the_t_test() -> None:
    by_seed = (0.1, 0.2, 0.6)
    of_seeds = float(np.var(by_seed, ddof=1)) / 3
    wanted = tuple(stats.ttest_1samp(by_seed, 0).confidence_interval(0.95))
    assert student_ends(0.3, [(of_seeds, 2)]) == pytest.approx(wanted)
    both = student_ends(0.3, [(0.04, 49), (of_seeds, 2)])
    width = (0.04 * stats.t.ppf(0.975, 49) ** 2 + of_seeds * stats.t.ppf(0.975, 2) ** 2) ** 0.5
    assert both == pytest.approx((0.3 - width, 0.3 + width))
    several = student_ends(0.3, [(0.04, 49), (of_seeds, 2)], comparisons=7)
    assert several[1] - several[0] > both[1] - both[0]
    draws = np.random.default_rng(0).normal(size=50)
    one_block = EstimatedDifference(value=0.3, draws=draws, blocks=1)
    one_seed = EstimatedDifference(value=0.3, draws=draws, blocks=50, by_seed=(0.3,))
    assert one_block.interval() is one_seed.interval() is None
    assert one_block.p_value() == one_seed.p_value() == 1


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("of_seeds", [0.1, 0.7, 1.5, 2.5, 7.0])
def test_an_interval_over_few_seeds_holds_the_value_in_95_of_100_cases(seeds: int, of_seeds: float) -> None:
    """`of_seeds`: their standard error in that of the items. By Welch and Satterthwaite: 88 to 95 of 100."""
    rng, trials = np.random.default_rng(0), 2000
    values = of_seeds * seeds**0.5 * rng.normal(size=(trials, seeds))
    item_errors = rng.normal(size=trials)
    inside = 0
    for by_seed, error in zip(values, item_errors, strict=True):
        draws = np.array([-1.0, 1.0])  # their variance is 1
        seed_values = tuple(float(value) for value in by_seed + error)
        ends = Estimate(value=float(np.mean(seed_values)), draws=draws, blocks=300, by_seed=seed_values).interval()
        assert ends is not None
        inside += ends[0] <= 0 <= ends[1]
    assert inside / trials >= 0.945


def test_the_p_value_is_that_of_the_t_test_and_belongs_to_the_interval() -> None:
    by_seed = (0.1, 0.2, 0.6)
    of_seeds = float(np.var(by_seed, ddof=1)) / 3
    assert p_value(0.3, [(of_seeds, 2)]) == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue, rel=1e-6)
    for value in (0.61, 0.62, 0.63, 0.8):
        parts = [(0.01, 49), (0.002, 2)]
        low, _ = student_ends(value, parts, comparisons=3)
        assert (low > 0) == (p_value(value, parts) < 0.05 / 3)
    assert p_value(0.0, [(0.1, 5)]) == 1 and p_value(9.0, [(1e-9, 50)]) <= 1e-11
    assert p_value(0.1, [(0.0, 5)]) == 1 == p_value(0.0, [(0.0, 5)])  # nothing is known


def test_p_values_are_corrected_as_holm_does() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []


def test_the_interval_of_a_share_stays_within_0_and_1() -> None:
    names = list("abcdef")
    ours = ItemScores.of("share", np.array([1, 1, 1, 1, 1, 0.5]), names)
    theirs = ItemScores.of("share", np.array([0, 0, 0, 0, 0, 0.5]), names)
    free = estimate([ours]).interval()
    assert free is not None and free[1] > 1
    for scores in (ours, theirs):
        ends = measure(scores).interval
        assert ends is not None and LayerScore.of(measure(scores)).bounds() == ends
        assert 0 <= ends[0] < measure(scores).value < ends[1] <= 1
    in_metres = measure(replace(ours, unit="m")).interval
    assert in_metres is not None and in_metres[1] > 1


def test_contributions_to_a_mean_are_the_items() -> None:
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, place).mean() for place in range(9)])
    np.testing.assert_allclose(contributions(values.mean(), without), values)
    without[4] = np.nan  # a metric that does not exist
    result = contributions(values.mean(), without)
    assert np.isfinite(result).all() and result.mean() == pytest.approx(values.mean())


def right_and_wrong(plus: int, minus: int, n: int) -> tuple[ItemScores, ItemScores]:
    """Two models' scores of n items: of those on which they differ, each is right on some."""
    ours, theirs = (np.arange(n) % 2 == 0 for _ in range(2))
    ours[: plus + minus], theirs[: plus + minus] = np.arange(plus + minus) < plus, np.arange(plus + minus) >= plus
    names = [str(number) for number in range(n)]
    return ItemScores.of("top-1", ours, names), ItemScores.of("top-1", theirs, names)


@cache
def gap_of(plus: int, minus: int, n: int) -> EstimatedDifference:
    return estimate_difference(*right_and_wrong(plus, minus, n))


@pytest.mark.parametrize("n", [2, 5, 30, 200])
def test_the_p_value_of_right_and_wrong_is_exact_and_the_interval_agrees_with_it(n: int) -> None:
    pairs = [(plus, minus) for plus in range(n + 1) for minus in range(min(plus, n - plus) + 1)]
    for plus, minus in pairs if n <= 30 else pairs[:: len(pairs) // 100]:
        gap = gap_of(plus, minus, n)
        wanted = stats.binomtest(plus, plus + minus).pvalue if plus else 1.0
        assert gap.p_value() == pytest.approx(wanted), (plus, minus)
        low, high = gap.interval() or (np.nan, np.nan)
        assert -1 <= low < high <= 1 and low <= gap.value <= high
        assert (low > 0) == (wanted < 0.05), (plus, minus)
        other = gap_of(minus, plus, n)
        assert other.p_value() == gap.p_value() and other.interval() == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("plus", "minus", "n", "wanted"), [(15, 5, 1000, 0.0414), (60, 40, 200, 0.0569), (14, 5, 1000, 0.0636)]
)
def test_p_values_do_not_jump_with_the_number_of_items_that_differ(
    plus: int, minus: int, n: int, wanted: float
) -> None:
    gap = gap_of(plus, minus, n)
    low, _ = gap.interval() or (np.nan, np.nan)
    assert gap.p_value() == pytest.approx(wanted, abs=1e-4) and (low > 0) == (wanted < 0.05)


@pytest.mark.parametrize("differing", [5, 6, 8, 19, 25, 60])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_p_value_of_scores_by_degrees_agrees_with_the_interval(differing: int, seeds: int) -> None:
    rng = np.random.default_rng(differing)
    names = [str(number) for number in range(60)]
    significant = []
    for trial in range(40):
        theirs = rng.random((seeds, 60))
        ours = theirs.copy()
        ours[:, :differing] += rng.normal(trial / 20, 1.0, differing) * 0.3
        both = [
            [replace(ItemScores.of("IoU", row, names), seed=None if seeds == 1 else at) for at, row in enumerate(model)]
            for model in (ours, theirs)
        ]
        gap = estimate_difference(*both)
        low, high = gap.interval() or (np.nan, np.nan)
        significant.append(gap.p_value() < 0.05)
        assert (low > 0 or high < 0) == significant[-1]
    assert (sum(significant) > 0 or differing < 8) and sum(significant) < 40


def test_items_of_classes_and_partial_scores_are_swapped_one_by_one_as_well() -> None:
    names, rng = [str(number) for number in range(60)], np.random.default_rng(0)
    theirs = rng.random(60)
    ours = theirs.copy()
    ours[[3, 14, 15, 40, 50]] += (0.3, 0.2, 0.1, 0.4, -0.2)
    gap = estimate_difference(*(ItemScores.of("IoU", values, names) for values in (ours, theirs)))
    differences = (ours - theirs,)
    wanted = stats.permutation_test(differences, np.mean, permutation_type="samples", n_resamples=9999, rng=0).pvalue
    assert gap.p_value() == pytest.approx(wanted, abs=0.02)  # the oracle's swaps are drawn
    classes = np.repeat([0, 1], [3, 1])  # the resamples of each class do not vary
    right, wrong = (ItemScores.of("mean class", np.full(4, value), list("abcd"), groups=classes) for value in (1, 0))
    assert estimate_difference(right, wrong).p_value() == pytest.approx(2 / 2**4)


@pytest.mark.parametrize("p", [0.0, 0.001, 0.01])
@pytest.mark.parametrize(("n", "gap"), [(50, 0.0), (50, 0.03), (400, 0.005)])
def test_an_interval_over_few_that_differ_holds_the_difference(n: int, gap: float, p: float) -> None:
    """`p`: how often the second model alone is right; the first alone: `gap` more often."""
    rng, trials = np.random.default_rng(0), 2000
    inside = 0
    for _ in range(trials):
        plus, minus, _ = rng.multinomial(n, (p + gap, p, 1 - gap - 2 * p))
        ends = gap_of(int(plus), int(minus), n).interval()
        assert ends is not None
        inside += ends[0] <= gap <= ends[1]
    assert inside / trials >= 0.93


def test_models_that_never_differ_are_told_apart_to_three_in_n() -> None:
    assert estimate_difference(*right_and_wrong(0, 0, 1000)).interval() == pytest.approx((-0.0028, 0.0028), rel=0.02)
    two_seeds = [[replace(score, seed=seed) for seed in range(2)] for score in right_and_wrong(0, 0, 1000)]
    seeded = estimate_difference(*two_seeds)
    assert seeded.p_value() == 1 and seeded.interval() == pytest.approx((-0.0028, 0.0028), rel=0.02)
    in_metres = [replace(score, unit="m") for score in right_and_wrong(0, 0, 1000)]
    assert estimate_difference(*in_metres).interval() is None  # how far two items may differ is not known


def test_a_share_has_the_interval_of_wilson() -> None:
    for right, n in ((0, 3), (5, 5), (1, 400), (700, 1000), (1000, 1000)):
        names = [str(number) for number in range(n)]
        wanted = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
        values = np.arange(n) < right
        assert measure(ItemScores.of("top-1", values, names)).interval == pytest.approx((wanted.low, wanted.high))
        if right in (0, n):  # also as means over classes, of a few seeds, and of partial scores
            by_class = ItemScores.of("mean class", values, names, groups=np.arange(n) % 3)
            partial = ItemScores.of("IoU", values.astype(float), names, weights=np.full(n, 1 / 3))
            seeds = [replace(by_class, seed=seed) for seed in range(3)]
            for scores in ([by_class], [partial], seeds):
                (metric,) = measure_all(scores)
                assert metric.interval == pytest.approx((wanted.low, wanted.high))
