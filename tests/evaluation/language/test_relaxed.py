"""Relaxed accuracy of numbers and texts."""

from __future__ import annotations

import pytest

from perception_encoder.evaluation.language.answers import relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("105", "100", 1),
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("-95", "-100", 1),
        ("95", "-100", 0),
        ("7%", "0.07", 1),
        ("7", "7%", 0),
        ("7.3%", "7%", 1),
        ("Yes", "yes", 1),
        (" yes\n", "Yes", 1),
        ("yes.", "yes", 0),
        ("1,000", "1000", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),
        ("nan", "NaN", 1),
        ("inf", "Infinity", 0),
        ("", "", 1),
    ],
)
def test_cases(prediction: str, answer: str, expected: float) -> None:
    assert relaxed_accuracy(prediction, answer) == expected


def test_another_tolerance() -> None:
    assert relaxed_accuracy("110", "100", tolerance=0.1) == 1
