"""Averages over tasks and paired differences: by hand, and their intervals against the plain formula."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.paired import Outcome, average, difference


def outcome(task: str, labels: str, right: str) -> Outcome:
    keys = tuple(str(number) for number in range(len(labels)))
    return Outcome(task, keys, tuple(labels), np.array([letter == "1" for letter in right]))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_average_is_over_classes_then_tasks_then_sets() -> None:
    fine = outcome("food", "aaab", "1100")  # a 2/3, b 0
    coarse = outcome("food/coarse", "xxyy", "1111")
    other = outcome("cars", "pq", "10")
    found = average("score", [[fine, coarse], [other]], generator())
    assert found.value == pytest.approx(((1 / 3 + 1) / 2 + 1 / 2) / 2)
    assert found.n == 6  # pictures of food and of cars, each once


def test_pictures_of_two_tasks_are_drawn_together() -> None:
    rng = generator()
    right = rng.random(400) < 0.5
    keys = tuple(map(str, range(400)))
    one = Outcome("food", keys, ("a",) * 400, right)
    same = Outcome("food/coarse", keys, ("b",) * 400, right)  # of the same pictures: it adds nothing that is new
    apart = Outcome("cars", keys, ("b",) * 400, right)
    width = {
        name: np.diff(average("s", [[one, two]], generator()).ci)[0] for name, two in (("same", same), ("apart", apart))
    }
    assert width["same"] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert width["apart"] == pytest.approx(width["same"] / 2**0.5, rel=0.1)


def test_a_difference_is_paired() -> None:
    rng = generator()
    right = rng.random(1000) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:30]] = True
    keys, labels = tuple(map(str, range(1000))), ("a",) * 1000
    ours, theirs = (Outcome("t", keys, labels, some) for some in (better, right))
    found = difference("gain", [[ours]], [[theirs]], generator())
    assert found.value == pytest.approx(0.03)
    assert found.ci[0] > 0.015  # unpaired, the interval would be 0.03 +- 0.044
    assert found.ci[1] < 0.045


def test_models_measured_on_other_pictures_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="same pictures"):
        difference("gain", [[outcome("t", "ab", "11")]], [[outcome("t", "abc", "111")]], generator())
