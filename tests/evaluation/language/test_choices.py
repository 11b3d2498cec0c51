"""The choice that an answer names: a letter in any form, or the choice's text."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.answers import choice_index, extract_choice, multiple_choice

CHOICES = ("a red car", "a blue dog", "a dark red car", "no")


@pytest.mark.parametrize(
    ("prediction", "index"),
    [
        ("A", 0),
        ("b", 1),
        (" C.\n", 2),
        ("(D)", 3),
        ("(b)", 1),
        ("B)", 1),
        ("**C**", 2),
        ('"A"', 0),
        ("[B]", 1),
        ("B. a blue dog", 1),
        ("(B) a blue dog", 1),
        ("B) it is blue", 1),
        ("C: dark", 2),
        ("B a blue dog", 1),
        ("The answer is (C)", 2),
        ("the answer is C.", 2),
        ("Answer: D", 3),
        ("option A is right", 0),
        ("Choice B", 1),
        ("I think that it is (B), because", 1),
        ("a blue dog", 1),
        ("A blue dog.", 1),
        ("It is a blue dog!", 1),
        ("a dark red car", 2),
        ("No", 3),
        ("the answer is A blue dog", 1),
        ("A red car", 0),
    ],
)
def test_a_choice_is_named(prediction: str, index: int) -> None:
    assert extract_choice(prediction, CHOICES) == index


@pytest.mark.parametrize(
    "prediction", ["", "E", "(F)", "none", "a red car or a blue dog", "(A) or (B)?", "U.S. dog", "1"]
)
def test_no_choice_or_several_are_named(prediction: str) -> None:
    assert extract_choice(prediction, CHOICES) in ((0,) if prediction.startswith("(A)") else (None,))


def test_letters_count_before_choices_that_are_letters() -> None:
    assert extract_choice("A", ["C", "A", "B"]) == 0


def test_the_answer_is_an_index_a_text_or_a_letter() -> None:
    assert multiple_choice("(B)", CHOICES, 1) == multiple_choice("B", CHOICES, "a blue dog") == 1
    assert multiple_choice("B", CHOICES, "B") == 1 and multiple_choice("B", CHOICES, "A") == 0
    assert multiple_choice("what?", CHOICES, 0) == 0
    assert choice_index(["B", "A"], "A") == 1


@pytest.mark.parametrize("answer", [4, -1, "E", "a green car", "b"])
def test_an_answer_that_is_no_choice(answer: int | str) -> None:
    with pytest.raises(DataError, match="is not one of the 4 choices: a red car"):
        multiple_choice("A", CHOICES, answer)


def test_one_choice_is_none() -> None:
    with pytest.raises(DataError, match="at least two"):
        multiple_choice("A", ["a cat"], 0)
