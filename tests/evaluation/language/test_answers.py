"""Answers scored by rules: short answers, numbers, edit distance, choices, yes or no, and boxes."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.evaluation.language.answers import (
    anls,
    box_iou,
    extract_choice,
    normalize_answer,
    parse_box,
    parse_yes_no,
    predicted_iou,
    relaxed_accuracy,
    scale_box,
    vqa_accuracy,
    yes_no_answer,
)
from tests.evaluation.language.lmms import lmms_functions

# fmt: off
NORMALISED = {
    "The  Dog.": "dog", "two an a three": "2 3", "none": "0", "Cant": "can't", "1,000": "1000", "3.5": "3.5",
    "red/blue": "red blue", "red / blue": "red blue", "T-shirt": "t shirt", "what?": "what", "dog's": "dog 's",
    "new\nyork\t": "new york", "." * 40: "." * 8, "": "",
}
RELAXED = [
    ("105", "100", 1), ("105.1", "100", 0), ("95", "100", 1), ("-95", "-100", 1), ("95", "-100", 0),
    ("7%", "0.07", 1), ("7", "7%", 0), ("7.3%", "7%", 1), ("Yes", "yes", 1), (" yes\n", "Yes", 1), ("yes.", "yes", 0),
    ("1,000", "1000", 0), ("0", "0", 1), ("0.001", "0", 0), ("nan", "NaN", 1), ("inf", "Infinity", 0), ("", "", 1),
    *((text, "5", 0) for text in ("nan", "-nan", "NaN%", "inf", "-Infinity", "inf%", "1e999", "-1e999%")),
    *(("5", text, 0) for text in ("nan", "inf", "-inf%", "1e999")),
]
DISTANCES = [
    ("Invoice", ["invoice"], 1), ("invoices", ["invoice"], 7 / 8), ("  invoices\n", ["invoice "], 7 / 8),
    ("a  b", ["a b"], 1), ("abcd", ["abxy"], 0.5), ("abc", ["axy"], 0), ("abc", ["xyz", "abd"], 2 / 3),
    ("", ["x"], 0), ("", [" "], 1), ("straße", ["strase"], 5 / 6),
]
CHOICES = ("a red car", "a blue dog", "a dark red car", "no")
CHOSEN = {
    "A": 0, "b": 1, " C.\n": 2, "(D)": 3, "B)": 1, "**C**": 2, '"A"': 0, "[B]": 1, "B. a blue dog": 1,
    "(B) a blue dog": 1, "B) it is blue": 1, "C: dark": 2, "B a blue dog": 1, "The answer is (C)": 2,
    "the answer is C.": 2, "Answer: D": 3, "option A is right": 0, "Choice B": 1, "I think that it is (B), because": 1,
    "a blue dog": 1, "A blue dog.": 1, "It is a blue dog!": 1, "a dark red car": 2, "No": 3,
    "the answer is A blue dog": 1, "A red car": 0, "(A) or (B)?": 0, "": None, "E": None, "(F)": None, "none": None,
    "a red car or a blue dog": None, "U.S. dog": None, "1": None,
}
YES_OR_NO = {
    "yes": True, "Yes.": True, "\nYES, there is no doubt": True, "It is, yes": True, "...Yes": True,
    "no": False, "No, it isn't. Yes": False, "There is not": False, "There isn't a dog": False,
    "": None, "maybe": None, "nothing": None, "It is there. Yes": None,
}
BOX = (100.0, 200.0, 300.0, 400.0)
SPELLINGS = (
    "[100, 200, 300, 400]", "[100,200,300,400]", "[100 200 300 400]", "[100;200;300;400]", "100 200 300 400",
    "(100,200),(300,400)", "(100, 200), (300, 400)", "<box>(100,200),(300,400)</box>", "[[100, 200], [300, 400]]",
    "x1=100, y1=200, x2=300, y2=400", "{'x1': 100, 'y1': 200, 'x2': 300, 'y2': 400}",
    '{"bbox_2d": [100, 200, 300, 400], "label": "cat"}', "The 2 cats are at [100, 200, 300, 400].",
    "[0.1, 0.2, 0.3, 0.4]", "[.1, .2, .3, .4]", "[100.0, 200., 300.00, 400]",
    "in 2024 100 200, box [100, 200, 300, 400]",
)
NO_BOX = ("", "no box", "[100, 200, 300]", "[-1, 2, 3, 4]", "[1, 2, 3, 4000]", "v1.2.3.4", "[100, a, 200, 300, 400]")
# fmt: on


def test_answers_are_normalized() -> None:
    assert {text: normalize_answer(text) for text in NORMALISED} == NORMALISED


@pytest.mark.filterwarnings("ignore:'count' is passed as positional")
def test_every_contraction_and_number_is_that_of_the_processor() -> None:
    processor = lmms_functions("tasks/_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor")["EvalAIAnswerProcessor"]
    words = [*processor.CONTRACTIONS, *processor.CONTRACTIONS.values(), *processor.NUMBER_MAP, *processor.PUNCTUATIONS]
    assert len(words) > 250
    for word in words:
        for text in (word, f"{word} x", f"x{word}y", f"x {word}", f"{word.upper()}."):
            assert normalize_answer(text) == processor()(text), text


def test_accuracy_by_the_number_of_people_who_agree() -> None:
    for same, expected in ((0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)):
        assert vqa_accuracy("The cat.", ["cat"] * same + ["dog"] * (10 - same)) == pytest.approx(expected)
    assert vqa_accuracy("cat", ["cat"]) == 0, "nobody else agrees"


@pytest.mark.parametrize(("prediction", "answer", "expected"), RELAXED)
def test_relaxed_accuracy(prediction: str, answer: str, expected: float) -> None:
    assert relaxed_accuracy(prediction, answer) == expected


@pytest.mark.parametrize(("prediction", "answers", "expected"), DISTANCES)
def test_edit_distance(prediction: str, answers: list[str], expected: float) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(MissingExtraError, match=r"rapidfuzz is not installed.*\[lang\]"):
        anls("x", ["x"])


def test_a_choice_is_named_or_none_or_several() -> None:
    assert {text: extract_choice(text, CHOICES) for text in CHOSEN} == CHOSEN
    assert extract_choice("A", ["C", "A", "B"]) == 0, "letters count before choices that are letters"


def test_yes_or_no_is_read() -> None:
    assert {text: parse_yes_no(text) for text in YES_OR_NO} == YES_OR_NO
    with pytest.raises(DataError, match="'1' is neither yes nor no"):
        yes_no_answer("1")


@pytest.mark.parametrize("text", SPELLINGS)
def test_spellings_of_a_box(text: str) -> None:
    assert parse_box(text) == pytest.approx(BOX)


def test_no_box_leading_zeros_and_the_whole_image() -> None:
    assert {parse_box(text) for text in NO_BOX} == {None}
    assert parse_box("[000,000,999,999]") == (0, 0, 999, 999)
    assert parse_box("[0, 0, 1, 1]") == (0, 0, 1, 1)  # without a decimal point these are thousandths


@given(st.text(alphabet="[](){}<>0123456789.,; -+xy=:'\"", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    box = parse_box(text)
    assert box is None or all(0 <= value <= 1000 for value in box)


def test_overlaps_of_boxes() -> None:
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert predicted_iou("[100, 200, 300, 400]", BOX) == 1 and predicted_iou("[100, 200, 300, 300]", BOX) == 0.5
    for text in ("[300, 400, 100, 200]", "[100, 400, 300, 200]", "[0, 0, 0, 0]", "somewhere"):
        assert predicted_iou(text, BOX) == 0
    assert scale_box((50, 25, 100, 80), 200, 100) == (250, 250, 500, 800)
    assert scale_box((-3, 0, 200, 100), 200, 100) == (0, 0, 999, 999)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 1, 5), (0, 0, 5), (0, 0, 5, 2000), ()])
def test_a_bad_true_box(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="the true box is"):
        predicted_iou("[1, 2, 3, 4]", box)
