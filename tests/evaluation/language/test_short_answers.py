"""VQA accuracy: EvalAI's normalisation, and leaving each answer out in turn."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.answers import normalize_answer, vqa_accuracy
from tests.evaluation.language.lmms import lmms_functions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Dog.", "dog"),
        ("two an a three", "2 3"),
        ("none", "0"),
        ("Cant", "can't"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("T-shirt", "t shirt"),
        ("what?", "what"),
        ("dog's", "dog 's"),
        ("new\nyork\t", "new york"),
        ("." * 40, "." * 8),
        ("", ""),
    ],
)
def test_answers_are_normalised(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.filterwarnings("ignore:'count' is passed as positional")
def test_every_contraction_and_number_is_that_of_the_processor() -> None:
    processor = lmms_functions("tasks/_task_utils/vqa_eval_metric.py", "EvalAIAnswerProcessor")["EvalAIAnswerProcessor"]
    words = [*processor.CONTRACTIONS, *processor.CONTRACTIONS.values(), *processor.NUMBER_MAP, *processor.PUNCTUATIONS]
    assert len(words) > 250
    for word in words:
        for text in (word, f"{word} x", f"x{word}y", f"x {word}", f"{word.upper()}."):
            assert normalize_answer(text) == processor()(text), text


@pytest.mark.parametrize(("same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_by_the_number_of_people_who_agree(same: int, expected: float) -> None:
    assert vqa_accuracy("The cat.", ["cat"] * same + ["dog"] * (10 - same)) == pytest.approx(expected)


def test_without_other_answers_nothing_agrees() -> None:
    assert vqa_accuracy("cat", ["cat"]) == 0
    with pytest.raises(DataError, match="needs at least one answer"):
        vqa_accuracy("cat", [])
