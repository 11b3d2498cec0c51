"""Score choices that are read from what a model says: multiple choice (AI2D, MVBench), and yes or no (POPE).

Multiple choice: the letter of a choice, or its text. Sources: Kembhavi et al., "A Diagram Is Worth a Dozen Images",
ECCV 2016; Li et al., "MVBench", CVPR 2024. Neither says how a letter is read from a sentence, so scorers differ; these
rules never read the article "a" as choice A.

Yes or no: accuracy, precision, recall, F1 and the share of "yes". Source: Li et al., "Evaluating Object Hallucination
in Large Vision-Language Models", EMNLP 2023, and its evaluate.py. Like there the first sentence counts. An answer that
is neither yes nor no is wrong here; there it counts as yes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perception_encoder.errors import DataError

_BARE = re.compile(r"[\s\"'*]*[(\[]?([A-Za-z])[)\]]?[\s.:,\"'*]*")
_FIRST = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[).:](?!\w))")
_AFTER_WORD = re.compile(
    r"\b(?i:answer|option|choice)\b[\s\"'*]*(?i:is|:|=)?[\s:\"'*]*"
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Z])\b(?!(?<=A) (?!is\b)[a-z]))"  # not the article of "the answer is A dog"
)
_IN_PARENTHESES = re.compile(r"\(([A-Z])\)")
_SENTENCE = re.compile(r"[^.!?\n]*")


def multiple_choice(prediction: str, choices: Sequence[str], answer: int | str) -> float:
    """Return 1 if the prediction chooses the answer, else 0.

    `answer`: its 0-based index, its text, or else its letter. What counts as chosen: see
    `extract_choice`. Raises DataError if the answer is not one of the choices, or if there are fewer than two.
    """
    return float(extract_choice(prediction, choices) == choice_index(choices, answer))


def choice_index(choices: Sequence[str], answer: int | str) -> int:
    """Return the 0-based index of an answer: an index, a text, or a letter; DataError if it is not a choice."""
    if len(choices) < 2:
        raise DataError(f"a question with {len(choices)} choices; multiple choice needs at least two")
    if isinstance(answer, int):
        index = answer
    elif answer in choices:
        index = list(choices).index(answer)
    else:
        index = ord(answer.strip()) - ord("A") if re.fullmatch(r"\s*[A-Z]\s*", answer) else -1
    if not 0 <= index < len(choices):
        raise DataError(f"the answer {answer!r} is none of the {len(choices)} choices: {', '.join(choices)}")
    return index


def extract_choice(prediction: str, choices: Sequence[str]) -> int | None:
    """Return the 0-based index of the choice that a prediction names, None if it names none or several.

    The first rule that applies: the whole text is a letter ("B", "(b)", "B."); it is a choice's text; it begins with a
    letter and a delimiter ("(B) …", "B. …", "B: …"), or with a letter and its choice's text; a letter follows "answer",
    "option" or "choice" ("the answer is (B)"); one letter stands in parentheses; one choice's text occurs as words, of
    nested ones the longest. Texts are compared without case and without a final full stop.
    """
    if bare := _BARE.fullmatch(prediction):
        return _of_letter(bare[1], len(choices))
    text, texts = _normalize(prediction), [_normalize(choice) for choice in choices]
    if text in texts:
        return texts.index(text)
    for index, choice in enumerate(texts):
        if text == f"{chr(ord('a') + index)} {choice}":
            return index
    for pattern in (_FIRST, _AFTER_WORD):
        if (match := pattern.match(prediction) if pattern is _FIRST else pattern.search(prediction)) is not None:
            return _of_letter(match[1] or match[2], len(choices))
    letters = set(_IN_PARENTHESES.findall(prediction))
    if len(letters) == 1:
        return _of_letter(letters.pop(), len(choices))
    return _of_text(text, texts)


def _of_letter(letter: str, count: int) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < count else None


def _of_text(text: str, texts: Sequence[str]) -> int | None:
    """Return the one choice whose text occurs in a text; longer ones are looked for first, then cut out."""
    hits = []
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        pattern = rf"(?<!\w){re.escape(texts[index])}(?!\w)"
        if texts[index] and re.search(pattern, text):
            hits.append(index)
            text = re.sub(pattern, " ", text)
    return hits[0] if len(hits) == 1 else None


def _normalize(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".").strip("\"'* ")


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
