"""Figures out of what each item contributed: by hand, and their intervals against formulas and plain resampling."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.scores import ItemScores, contributions, difference, measure

TARGETS = np.repeat([0, 1, 4], [80, 15, 5])
CORRECT = np.concatenate([np.arange(80) < 60, np.arange(15) < 3, np.arange(5) < 5])
NAMES = [f"picture {number}" for number in range(100)]


def test_a_share_weighs_items_alike() -> None:
    metric = measure(ItemScores.of("top-1", CORRECT, NAMES))
    assert (metric.name, metric.n, metric.value) == ("top-1", 100, pytest.approx(0.68))
    assert metric.ci == pytest.approx((0.68 - 0.0914, 0.68 + 0.0914), abs=0.015)  # 1.96 sqrt(p (1 - p) / n)


def test_groups_weigh_alike_and_items_are_drawn_within_them() -> None:
    metric = measure(ItemScores.of("mean class accuracy", CORRECT, NAMES, groups=TARGETS))
    assert metric.value == pytest.approx((60 / 80 + 3 / 15 + 1) / 3)
    draw = np.random.default_rng(1)
    groups = np.split(CORRECT, [80, 95])
    resampled = [np.mean([draw.choice(group, len(group)).mean() for group in groups]) for _ in range(3000)]
    assert metric.ci == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.01)


def test_unions_as_weights_and_classes_as_groups_make_miou() -> None:
    intersections, unions = np.array([[1, 0], [3, 2]]), np.array([[4, 2], [4, 8]])  # (pictures, classes)
    scores = ItemScores.of(
        "mIoU",
        (intersections / unions).ravel(),
        ["a", "b"],
        owners=np.array([0, 0, 1, 1]),
        groups=np.array([0, 1, 0, 1]),
        weights=unions.ravel(),
    )
    metric = measure(scores)
    assert (metric.value, metric.n) == (pytest.approx((4 / 8 + 2 / 10) / 2), 2)
    alone = [np.mean([1 / 4, 0]), np.mean([3 / 4, 2 / 8])]  # where one of the two is drawn twice
    assert metric.ci == pytest.approx((min(alone), max(alone)))


def test_entries_of_one_item_are_drawn_together() -> None:
    found = np.random.default_rng(0).random(400) < 0.5
    names = [str(number) for number in range(400)]
    once = measure(ItemScores.of("recall", found, names))
    twice = ItemScores.of("recall", np.repeat(found, 2), names, owners=np.repeat(np.arange(400), 2))
    assert measure(twice) == once
    apart = measure(ItemScores.of("recall", np.repeat(found, 2), [*names, *names]))
    assert np.diff(apart.ci)[0] == pytest.approx(np.diff(once.ci)[0] / 2**0.5, rel=0.1)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:30]] = True
    names = [str(number) for number in range(1000)]
    found = difference(*(ItemScores.of("top-1", some, names) for some in (better, right)))
    assert found.value == pytest.approx(0.03)
    assert found.ci == pytest.approx((0.03 - 0.0106, 0.03 + 0.0106), abs=0.002)  # unpaired: ± 0.044


def test_contributions_to_a_mean_are_the_items() -> None:
    values = np.random.default_rng(0).normal(size=9)
    without = np.array([np.delete(values, place).mean() for place in range(9)])
    np.testing.assert_allclose(contributions(values.mean(), without), values)
    without[4] = np.nan  # a figure that is not there
    found = contributions(values.mean(), without)
    assert np.isfinite(found).all() and found.mean() == pytest.approx(values.mean())


def test_the_text_holds_everything_in_few_bytes() -> None:
    scores = ItemScores.of("RMSE", np.linspace(0, 3, 7), list("abcdefg"), unit="m", lower_is_better=True)
    again = ItemScores(**json.loads(json.dumps(asdict(scores))))
    assert again == scores
    np.testing.assert_allclose(again.entries()[0], np.linspace(0, 3, 7), rtol=1e-6)
    assert (measure(again).unit, measure(again).lower_is_better) == ("m", True)
    many = ItemScores.of("top-1", np.random.default_rng(0).random(50_000) < 0.8, list(map(str, range(50_000))))
    assert len(json.dumps(asdict(many))) < 10_000


def test_bits_of_any_number_come_out_again() -> None:
    for count in (1, 7, 8, 9):
        values = np.arange(count) % 3 == 0
        np.testing.assert_array_equal(ItemScores.of("x", values, list(map(str, range(count)))).entries()[0], values)


def test_other_items_or_groups_cannot_be_compared() -> None:
    ours = ItemScores.of("top-1", CORRECT, NAMES)
    for theirs in (
        ItemScores.of("top-1", CORRECT[:99], NAMES[:99]),
        ItemScores.of("top-1", CORRECT, NAMES[::-1]),
        ItemScores.of("top-1", CORRECT, NAMES, groups=TARGETS),
    ):
        with pytest.raises(DataError, match="not measured on the same items"):
            difference(ours, theirs)


def test_a_score_that_is_no_number_names_its_item() -> None:
    with pytest.raises(DataError, match="recall: the score of b is no number"):
        ItemScores.of("recall", np.array([0.5, np.nan]), ["a", "b"])
    with pytest.raises(DataError, match="recall: there is nothing to measure"):
        ItemScores.of("recall", np.zeros(0), [])


@pytest.mark.parametrize("values", ["", "bool 3 !!", "object 1 eJw=", "float32 2 eJxjYGBgAAAABAAB"])
def test_damaged_scores_are_a_data_error(values: str) -> None:
    with pytest.raises(DataError, match="damaged"):
        replace(ItemScores.of("top-1", CORRECT, NAMES), values=values).entries()
