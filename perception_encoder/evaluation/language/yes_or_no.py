"""Yes/no questions about objects (POPE): accuracy, precision, recall, F1 and the share of "yes".

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023, and its evaluate.py.
Like there the first sentence counts. An answer that is neither yes nor no is wrong here; there it counts as yes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perception_encoder.errors import DataError

_SENTENCE = re.compile(r"[^.!?\n]*")


@dataclass(frozen=True, kw_only=True)
class YesNoScores:
    """The metrics of a set of yes/no questions, each in [0, 1]; "yes" is the positive class."""

    accuracy: float
    """The share of right answers."""
    precision: float
    """TP / (TP + FP); 0 if "yes" is never said."""
    recall: float
    """TP / (TP + FN), an answer that is neither counted as a false negative; 0 without a true "yes"."""
    f1: float
    """2 TP / (2 TP + FP + FN); 0 without any "yes"."""
    yes_ratio: float
    """The share of "yes" among the predictions; compare with that among the answers."""


def parse_yes_no(text: str) -> bool | None:
    """Return True for yes, False for no, None for neither, from the first sentence with a word in it.

    "Yes" or "no" as its first word; else "no", "not" or "n't" anywhere makes it no, as in POPE's scorer; else "yes"
    anywhere makes it yes.
    """
    sentences = (re.findall(r"[a-z']+", sentence) for sentence in _SENTENCE.findall(text.lower()))
    words = next((words for words in sentences if words), [])
    if words and words[0] in ("yes", "no"):
        return words[0] == "yes"
    if any(word in ("no", "not") or word.endswith("n't") for word in words):
        return False
    return True if "yes" in words else None


def yes_no(predictions: Sequence[str], answers: Sequence[str]) -> YesNoScores:
    """Score predictions against "yes" or "no" answers, question by question.

    Raises DataError for no questions, for a different number of predictions, and for any other answer.
    """
    if not answers or len(predictions) != len(answers):
        raise DataError(f"{len(predictions)} predictions for {len(answers)} yes/no answers; give one for each")
    truth = [yes_no_answer(answer) for answer in answers]
    guessed = [parse_yes_no(prediction) for prediction in predictions]
    hits = sum(guess is True and expected for guess, expected in zip(guessed, truth, strict=True))
    guesses, positives = guessed.count(True), truth.count(True)
    return YesNoScores(
        accuracy=sum(guess is expected for guess, expected in zip(guessed, truth, strict=True)) / len(truth),
        precision=hits / guesses if guesses else 0.0,
        recall=hits / positives if positives else 0.0,
        f1=2 * hits / (guesses + positives) if guesses + positives else 0.0,
        yes_ratio=guesses / len(truth),
    )


def yes_no_answer(answer: str) -> bool:
    """Return whether a true answer is yes; DataError unless it is "yes" or "no", in any case."""
    word = answer.strip().lower()
    if word not in ("yes", "no"):
        raise DataError(f"the answer {answer!r} is neither yes nor no")
    return word == "yes"
