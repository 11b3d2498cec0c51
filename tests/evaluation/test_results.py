"""Results: as JSON and as tables, and two side by side: which differences are called real, and for whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.results import (
    Result,
    compare_results,
    comparison_table,
    from_json,
    full_table,
    to_json,
)
from perception_encoder.evaluation.statistics.scores import (
    ItemScores,
    Label,
    ResampledScores,
    Score,
    estimate_difference,
    measure_all,
)
from perception_encoder.models.registry import BUILTIN

NAMES = [str(number) for number in range(400)]
RIGHT = np.arange(400) < 200


def result(model: str, *items: ItemScores | ResampledScores, task: str = "toys") -> Result:
    label = Label(task=task, method="k-NN", transform="squash", classes=4, settings={"k": "20"})
    return Result(model=model, split="test", scores=measure_all(items, label), failures=(), about={})


def top1(right: np.ndarray) -> ItemScores:
    return ItemScores.of("top-1", right, NAMES)


def test_a_large_difference_is_real_and_a_small_one_is_not() -> None:
    (large,) = compare_results(result("a", top1(np.arange(400) < 240)), result("b", top1(RIGHT)))
    assert (large.difference.value, large.winner) == (pytest.approx(0.1), 0)
    (small,) = compare_results(result("a", top1(np.arange(400) < 201)), result("b", top1(RIGHT)))
    assert (small.real, small.winner) == (False, None)


def test_of_many_metrics_one_that_differs_by_chance_is_not_real() -> None:
    """A difference whose own interval excludes zero is believed of one metric, not of twenty."""
    slightly = np.concatenate([np.arange(210), np.arange(202, 400)[-1:]])
    ours = np.isin(np.arange(400), slightly) & (np.arange(400) != 0)
    (alone,) = compare_results(result("a", top1(ours)), result("b", top1(RIGHT)))
    assert alone.real and alone.p_value < 0.05
    others = [ItemScores.of(f"other {number}", RIGHT, NAMES) for number in range(19)]
    every = compare_results(result("a", top1(ours), *others), result("b", top1(RIGHT), *others))
    assert every[0].difference == alone.difference
    assert every[0].p_value == pytest.approx(min(1, 20 * alone.p_value)) and not any(item.real for item in every)


def test_less_error_is_better() -> None:
    errors = [ItemScores.of("RMSE", e * (2 + RIGHT), NAMES, unit="m", lower_is_better=True) for e in (0.2, 0.3)]
    (outcome,) = compare_results(result("a", errors[0]), result("b", errors[1]))
    assert outcome.difference.value == pytest.approx(-0.25)
    assert outcome.winner == 0
    _, (row,) = comparison_table([outcome], ("a", "b"))
    assert row == (
        "toys, k-NN, squash",
        "RMSE",
        "400",
        "0.500 m",
        "0.750 m",
        "-0.250 (-0.255 to -0.245)",
        "a",
    )


def test_a_result_that_is_no_mean_is_compared_by_its_draws() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 200)
    lower = ResampledScores.of("box AP", 0.5, draws, NAMES)
    upper = ResampledScores.of("box AP", 0.53, draws + 0.03, NAMES)
    both = result("a", upper), result("b", lower)
    (outcome,) = compare_results(from_json(to_json(both[0]), "a.json"), both[1])
    assert outcome.difference.value == pytest.approx(0.03) and outcome.winner == 0  # within both intervals, and real
    assert outcome.difference.interval == pytest.approx((0.03, 0.03), abs=1e-6)
    for other, message in (
        (ResampledScores.of("box AP", 0.5, draws, NAMES[::-1]), "not evaluated on the same items"),
        (ResampledScores.of("box AP", 0.5, draws[:100], NAMES), "draws, blocks and head seeds differ"),
        (replace(lower, draws="float32 200 nonsense"), "the draws are damaged"),
        (ItemScores.of("box AP", RIGHT, NAMES), "different groups or blocks"),
    ):
        with pytest.raises(DataError, match=message):
            estimate_difference(upper, other)


def test_results_without_a_result_in_common_are_a_data_error() -> None:
    ours = result("a", top1(RIGHT))
    bare = replace(ours, scores=(replace(ours.scores[0], items=()),))
    for theirs in (result("b", top1(RIGHT), task="other"), bare):
        with pytest.raises(DataError, match="share no score of the same items"):
            compare_results(ours, theirs)


def test_other_items_are_named_by_their_task() -> None:
    other = ItemScores.of("top-1", RIGHT, NAMES[::-1])
    with pytest.raises(DataError, match="not evaluated on the same items"):
        compare_results(result("a", top1(RIGHT)), result("b", other))


RESULT = Result(
    model=BUILTIN,
    split="test",
    scores=tuple(
        Score(name=name, value=value, interval=(value - 0.02, value + 0.01), n=1649, classes=4, **label)
        for label in (
            {"task": "flowers", "method": "zero-shot", "transform": "crop", "prompts": "photo"},
            {"task": "flowers", "method": "linear probe", "transform": "squash", "settings": {"C": "1"}},
        )
        for name, value in (("mean class accuracy", 0.83), ("top-1", 0.4125))
    ),
    failures=("flowers-7: cannot be decoded",),
    about={"weights": "abc", "torch": "2.6"},
)


def test_every_result_is_listed_with_its_label() -> None:
    _, rows = full_table(RESULT)
    label = ("flowers", "zero-shot", "crop", "photo", "–")
    assert len(rows) == 4 and rows[0] == (*label, "mean class accuracy", "1,649", "83.0", "81.0–84.0")
    assert rows[2][:5] == ("flowers", "linear probe", "squash", "–", "C 1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": [1], "failures": []}', '{"scores": 3}'])
def test_other_json_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match=r"r\.json is not a result"):
        from_json(text, "r.json")


def test_a_result_without_an_interval_has_none_in_tables_and_json() -> None:
    assert from_json(to_json(RESULT), "r.json") == RESULT
    bare = Score(name="J&F", value=0.5, n=5, task="tracking", method="label propagation")
    result = replace(RESULT, scores=(bare,))
    assert full_table(result)[0] == ("task", "method", "metric", "n", "%")
    assert from_json(to_json(result), "r.json") == result


def test_failures_are_written_once_with_their_reason() -> None:
    failed = replace(RESULT.scores[0], failures=(InputError("flowers-7", "cannot be decoded"),))
    assert to_json(replace(RESULT, scores=(failed, *RESULT.scores[1:]))) == to_json(RESULT)
