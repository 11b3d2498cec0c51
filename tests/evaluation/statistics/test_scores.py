"""Figures out of what each item contributed: by hand, and their intervals against formulas and plain resampling."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.scores import (
    ItemScores,
    estimate,
    estimate_difference,
    measure,
    measure_all,
    with_head_seeds,
)

TARGETS = np.repeat([0, 1, 4], [80, 15, 5])
CORRECT = np.concatenate([np.arange(80) < 60, np.arange(15) < 3, np.arange(5) < 5])
NAMES = [f"image {number}" for number in range(100)]


def test_a_share_weighs_items_alike() -> None:
    metric = measure(ItemScores.of("top-1", CORRECT, NAMES))
    assert (metric.name, metric.n, metric.value) == ("top-1", 100, pytest.approx(0.68))
    assert metric.interval == pytest.approx((0.68 - 0.0914, 0.68 + 0.0914), abs=0.015)  # 1.96 sqrt(p (1 - p) / n)


def test_groups_weigh_alike_and_items_are_drawn_within_them() -> None:
    metric = measure(ItemScores.of("mean class accuracy", CORRECT, NAMES, groups=TARGETS))
    assert metric.value == pytest.approx((60 / 80 + 3 / 15 + 1) / 3)
    draw = np.random.default_rng(1)
    groups = np.split(CORRECT, [80, 95])
    resampled = [np.mean([draw.choice(group, len(group)).mean() for group in groups]) for _ in range(3000)]
    variance = estimate(metric.items).of_blocks()
    assert variance is not None and variance**0.5 == pytest.approx(np.std(resampled), rel=0.05)
    low, high = np.percentile(resampled, [2.5, 97.5])  # too narrow: 15 items make most of the variance
    assert low - 0.03 < metric.interval[0] < low and high < metric.interval[1] < high + 0.03


def test_unions_as_weights_and_classes_as_groups_make_miou() -> None:
    intersections, unions = np.array([[1, 0], [3, 2]]), np.array([[4, 2], [4, 8]])  # (images, classes)
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
    alone = np.array([np.mean([3 / 4, 2 / 8]), np.mean([1 / 4, 0])])  # without the first, without the second
    np.testing.assert_allclose(estimate([scores]).pseudo_values, 2 * metric.value - alone)


def test_entries_of_one_item_are_drawn_together() -> None:
    result = np.random.default_rng(0).random(400) < 0.5
    names = [str(number) for number in range(400)]
    once = measure(ItemScores.of("recall", result, names))
    twice = ItemScores.of("recall", np.repeat(result, 2), names, owners=np.repeat(np.arange(400), 2))
    assert replace(measure(twice), items=()) == replace(once, items=())
    separate = measure(ItemScores.of("recall", np.repeat(result, 2), [*names, *names]))
    assert np.diff(separate.interval)[0] == pytest.approx(np.diff(once.interval)[0] / 2**0.5, rel=0.1)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:30]] = True
    names = [str(number) for number in range(1000)]
    result = estimate_difference(*(ItemScores.of("top-1", some, names) for some in (better, right)))
    assert result.value == pytest.approx(0.03)
    assert result.interval() == pytest.approx((0.03 - 0.0106, 0.03 + 0.0106), abs=0.002)  # unpaired: ± 0.044


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
    ):
        with pytest.raises(DataError, match="not evaluated on the same items"):
            estimate_difference(ours, theirs)
    with pytest.raises(DataError, match="same 100 items have different groups"):
        estimate_difference(ours, ItemScores.of("top-1", CORRECT, NAMES, groups=TARGETS))


def test_a_score_that_is_no_number_names_its_item() -> None:
    with pytest.raises(DataError, match="recall: the score of b is not a number"):
        ItemScores.of("recall", np.array([0.5, np.nan]), ["a", "b"])
    with pytest.raises(DataError, match="recall: no items"):
        ItemScores.of("recall", np.zeros(0), [])


@pytest.mark.parametrize("values", ["", "bool 3 !!", "object 1 eJw=", "float32 2 eJxjYGBgAAAABAAB"])
def test_damaged_scores_are_a_data_error(values: str) -> None:
    with pytest.raises(DataError, match="damaged"):
        replace(ItemScores.of("top-1", CORRECT, NAMES), values=values).entries()


def test_items_of_one_block_are_drawn_together() -> None:
    """Frames of a video that agree with one another say as much as one of them."""
    rng = np.random.default_rng(0)
    of_video = rng.normal(size=40)
    frames = np.repeat(of_video, 25) + 0.01 * rng.normal(size=1000)
    names = [f"video {video}/{frame}" for video in range(40) for frame in range(25)]
    blocks = [name.partition("/")[0] for name in names]
    together = measure(ItemScores.of("error", frames, names, blocks=blocks, unit="m"))
    of_videos = measure(ItemScores.of("error", of_video, blocks[::25], unit="m"))
    separate = measure(ItemScores.of("error", frames, names, unit="m"))
    assert together.n == 1000 and np.diff(together.interval) == pytest.approx(np.diff(of_videos.interval), rel=0.05)
    assert np.diff(separate.interval)[0] < np.diff(together.interval)[0] / 4
    again = ItemScores(**json.loads(json.dumps(asdict(ItemScores.of("error", frames, names, blocks=blocks)))))
    assert len(set(again.block_of())) == 40
    plain = ItemScores.of("error", frames, names)
    assert ItemScores.of("error", frames, names, blocks=names) == plain  # each a block by itself
    with pytest.raises(DataError, match="different groups or blocks"):
        estimate_difference(ItemScores.of("error", frames, names, blocks=blocks), plain)


def seeded(values: np.ndarray, names: list[str]) -> tuple[ItemScores, ...]:
    """Scores with a head of each seed: (seeds, n)."""
    return with_head_seeds(len(values), lambda seed: (ItemScores.of("RMSE", values[seed], names, unit="m"),))


def test_the_seeds_of_a_head_are_in_the_interval() -> None:
    rng = np.random.default_rng(0)
    names = [str(number) for number in range(200)]
    items = rng.normal(size=200)
    similar, unlike = (items + np.array([[-1.0], [0], [1]]) * by for by in (0.0, 0.5))
    (narrow,), (wide,) = measure_all(seeded(similar, names)), measure_all(seeded(unlike, names))
    assert narrow.value == pytest.approx(items.mean()) == pytest.approx(wide.value)
    assert np.diff(wide.interval)[0] > 2 * 4.3 * 0.5 / 3**0.5 * 0.9  # Student's t of two degrees of freedom
    assert np.diff(narrow.interval)[0] == pytest.approx(2 * 1.97 * items.std(ddof=1) / 200**0.5, rel=0.1)
    (alone,) = measure_all(seeded(unlike[:1], names))
    assert alone.interval is None  # one seed does not say what seeds do
    gap = estimate_difference(seeded(unlike + 0.3, names), seeded(unlike, names))
    assert gap.value == pytest.approx(0.3) and gap.interval() == pytest.approx((0.3, 0.3), abs=0.01)  # paired by seed
    with pytest.raises(DataError, match=r"\(0, 200, 3\) and \(0, 200, 2"):
        estimate_difference(seeded(unlike, names), seeded(unlike[:2], names))


def test_a_class_that_only_one_item_has_is_left_out_without_it() -> None:
    """Only the first image shows the second class, and all is right: without it, too, the mean over classes is 1."""
    owners, groups = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 0])
    scores = ItemScores.of("mIoU", np.ones(4), ["a", "b", "c"], owners=owners, groups=groups)
    assert estimate([scores]).pseudo_values.tolist() == [1.0, 1.0, 1.0]
    half = ItemScores.of("mIoU", np.array([0.5, 1.0, 0.5, 0.5]), ["a", "b", "c"], owners=owners, groups=groups)
    assert estimate([half]).pseudo_values.tolist() == [3 * 0.75 - 2 * 0.5, 0.75, 0.75]


@pytest.mark.parametrize("grouped", [False, True])
def test_what_blocks_contribute_and_their_pseudo_values_follow_from_leaving_each_out(grouped: bool) -> None:
    rng, blocks, entries = np.random.default_rng(0), 7, 60
    owners = np.sort(rng.integers(0, 30, entries))
    of = [f"block {number % blocks}" for number in range(30)]
    values, weights = rng.random(entries), rng.integers(0, 4, entries).astype(float)
    groups = rng.integers(0, 6, entries) * 3 if grouped else None
    weights[groups == 9 if grouped else slice(0)] = 0  # a class that no image shows
    names = [str(number) for number in range(30)]
    scores = ItemScores.of("IoU", values, names, owners=owners, groups=groups, weights=weights, blocks=of)

    def value_of(counted: np.ndarray) -> float:
        every = np.zeros(entries) if groups is None else groups
        parts = [counted & (every == group) & (weights > 0) for group in np.unique(every)]
        return float(np.mean([np.average(values[part], weights=weights[part]) for part in parts if part.any()]))

    found = estimate([scores])
    whole, block_of = value_of(np.ones(entries, bool)), scores.block_of()[owners]
    assert found.value == pytest.approx(whole) and found.by_block.mean() == pytest.approx(whole)
    without = np.array([value_of(block_of != block) for block in range(blocks)])
    np.testing.assert_allclose(found.pseudo_values, blocks * whole - (blocks - 1) * without, rtol=1e-5)


def test_two_blocks_have_a_variance_and_one_has_none() -> None:
    two = estimate([ItemScores.of("error", np.array([0.2, 0.8]), ["a", "b"])])
    assert two.blocks == 2 and two.of_blocks() == pytest.approx(0.18 / 2, rel=0.1)  # the sample's variance, over n
    assert estimate([ItemScores.of("error", np.array([0.2, 0.8]), ["a", "b"], blocks=["v", "v"])]).of_blocks() is None
