"""Yes/no questions, from whole sentences."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.answers import YesNoScores, parse_yes_no, yes_no


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("Yes.", True),
        ("\nYES, there is no doubt", True),
        ("It is, yes", True),
        ("...Yes", True),
        ("no", False),
        ("No, it isn't. Yes", False),
        ("There is not", False),
        ("There isn't a dog", False),
        ("", None),
        ("maybe", None),
        ("nothing", None),
        ("It is there. Yes", None),
    ],
)
def test_an_answer_is_read(text: str, expected: bool | None) -> None:
    assert parse_yes_no(text) is expected


def test_the_metrics() -> None:
    predictions = ["yes", "Yes.", "no", "yes", "unclear", "no", "unclear"]
    answers = ["yes", "yes", "yes", "no", "yes", "No", "no"]
    assert yes_no(predictions, answers) == YesNoScores(
        accuracy=3 / 7, precision=2 / 3, recall=2 / 4, f1=2 * 2 / (2 * 2 + 1 + 2), yes_ratio=3 / 7
    )


def test_without_any_yes() -> None:
    assert yes_no(["no"], ["no"]) == YesNoScores(accuracy=1, precision=0, recall=0, f1=0, yes_ratio=0)


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [([], [], "0 predictions"), (["yes"], [], "1 predictions for 0"), (["yes"], ["1"], "'1' is neither yes nor no")],
)
def test_bad_input(predictions: list[str], answers: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        yes_no(predictions, answers)
