"""Prompts and scores of the datasets."""

from __future__ import annotations

import pytest

from perception_encoder.datasets.questions.question import Question
from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.tasks import TASKS

CHOICE = Question(id="1", question="Which part?", media=(), choices=("leaf", "root"), correct=1)
DOTTED = Question(id="1", question="Where?", media=(), answers=("U.S.",))
TEXT = Question(id="1", question="How many?", media=(), answers=("12",) * 10)


@pytest.mark.parametrize(
    ("name", "question", "prompt"),
    [
        ("vqav2", TEXT, "How many?\nAnswer the question using a single word or phrase."),
        ("docvqa", TEXT, "How many?\nAnswer the question using a single word or phrase."),
        ("chartqa", TEXT, "How many?\nAnswer the question with a single word."),
        ("coco", TEXT, "Provide a one-sentence caption for the provided image."),
        (
            "ai2d",
            CHOICE,
            "Which part?\nA. leaf\nB. root\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "perceptiontest",
            CHOICE,
            "Which part?\nA. leaf\nB. root\nAnswer with the option's letter from the given choices directly.",
        ),
        (
            "videomme",
            CHOICE,
            "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
            "Respond with only the letter (A, B, C, or D) of the correct option.\nWhich part?\nA. leaf\nB. root\n\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        ("nocaps", TEXT, "Describe the image briefly."),
        ("mvbench", CHOICE, "Question:Which part?\nOption:\n(A) leaf\n(B) root\nOnly give the best option.\n"),
        (
            "refcoco",
            TEXT,
            "Provide the bounding box of the region that this phrase describes: How many?\n"
            "Answer with [x, y, x, y]: left, top, right and bottom as integers from 000 to 999.",
        ),
    ],
)
def test_prompts(name: str, question: Question, prompt: str) -> None:
    assert TASKS[name].prompt(question) == prompt


@pytest.mark.parametrize(
    ("name", "question", "prediction", "score"),
    [
        ("vqav2", TEXT, "12.", 1),
        ("textvqa", TEXT, "13", 0),
        ("docvqa", TEXT, "1", 0.5),
        ("chartqa", TEXT, "12.5.", 1),
        ("chartqa", TEXT, "13", 0),
        ("chartqa", DOTTED, " U.S. ", 1),
        ("chartqa", DOTTED, "u.s", 0),
        ("chartqa", DOTTED, "U.S..", 1),
        ("tgifqa", DOTTED, "u.s.", 1),
        ("tgifqa", TEXT, "12.", 1),
        ("ai2d", CHOICE, "B", 1),
        ("mvbench", CHOICE, "(A) leaf", 0),
        ("pope", Question(id="1", question="Is it?", media=(), answers=("no",)), "No, it isn't.", 1),
        ("pope", Question(id="1", question="Is it?", media=(), answers=("no",)), "perhaps", 0),
    ],
)
def test_scores(name: str, question: Question, prediction: str, score: float) -> None:
    task = TASKS[name]
    assert task.score is not None
    assert task.score(prediction, question, None) == pytest.approx(score)


def test_boxes_are_compared_in_thousandths() -> None:
    score = TASKS["refcoco"].score
    assert score is not None
    assert score("[100, 100, 500, 500]", TEXT, (100, 100, 500, 480)) == 1
    assert score("[100, 200, 300, 300]", TEXT, (100, 200, 300, 400)) == 1  # an IoU of one half
    assert score("[100, 200, 300, 299]", TEXT, (100, 200, 300, 400)) == 0
    with pytest.raises(DataError, match="the true box"):
        score("[100, 100, 500, 500]", TEXT, None)
