"""Language tasks by dataset: prompts, lengths of answers, and scoring.

The prompts are those of LLaVA-1.5 and lmms-eval, which published results of short answers are made with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perception_encoder.datasets.questions.question import Corners, Question
from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.evaluation.language.answers import (
    anls,
    extract_choice,
    parse_yes_no,
    predicted_iou,
    relaxed_accuracy,
    vqa_accuracy,
    yes_no_answer,
)
from perception_encoder.preprocess.conversation import CAPTION_PROMPT

Score = Callable[[str, Question, Corners | None], float]
"""Scores a prediction, in [0, 1]; the box is the question's, in thousandths of the image."""


@dataclass(frozen=True, kw_only=True)
class LanguageTask:
    """How the questions of a dataset are read and asked, and how answers are scored."""

    name: str
    """The dataset's name."""
    metric: str
    """Name of the mean score."""
    score: Score | None
    """None for captions, which are scored together."""
    max_tokens: int = 32
    prompt: Callable[[Question], str] = lambda question: (
        f"{question.question}\nAnswer the question using a single word or phrase."
    )
    read: Callable[[str, Path, str], list[Question]] = read_questions
    """Reads a split of the dataset, by its name, below a path."""


def _readings(prediction: str) -> tuple[str, str]:
    """Return the text with and without a final full stop: models end sentences with it, answers rarely ("U.S.")."""
    text = prediction.strip()
    return text, text.removesuffix(".")


def _relaxed(prediction: str, question: Question, box: Corners | None) -> float:
    return max(relaxed_accuracy(text, answer) for text in _readings(prediction) for answer in question.answers)


def _choice(prediction: str, question: Question, box: Corners | None) -> float:
    chosen = extract_choice(prediction, question.choices)
    return float(chosen is not None and chosen == question.correct)


def _lettered(form: str, question: Question) -> str:
    """Return the choices, one per line, in a form such as `(A) text`."""
    return "\n".join(form.format(chr(ord("A") + row), choice) for row, choice in enumerate(question.choices))


def _letter_prompt(question: Question) -> str:
    choices = _lettered("{}. {}", question)
    return f"{question.question}\n{choices}\nAnswer with the option's letter from the given choices directly."


def _video_prompt(question: Question) -> str:
    return f"Question:{question.question}\nOption:\n{_lettered('({}) {}', question)}\nOnly give the best option.\n"


def _subtitled_prompt(question: Question) -> str:
    """Return Video-MME's prompt, which mentions subtitles even without any."""
    return (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        f"Respond with only the letter (A, B, C, or D) of the correct option.\n{question.question}\n"
        f"{_lettered('{}. {}', question)}\n\nAnswer with the option's letter from the given choices directly."
    )


def _gif_prompt(question: Question) -> str:
    return _video_prompt(question) if question.choices else f"{question.question}\nAnswer with a single word."


def _choice_or_word(prediction: str, question: Question, box: Corners | None) -> float:
    if question.choices:
        return _choice(prediction, question, box)
    return float(question.answers[0].lower() in [text.lower() for text in _readings(prediction)])


def _box_prompt(question: Question) -> str:
    return (
        f"Provide the bounding box of the region that this phrase describes: {question.question}\n"
        "Answer with [x, y, x, y]: left, top, right and bottom as integers from 000 to 999."
    )


VQA = partial(
    LanguageTask,
    metric="VQA accuracy",
    score=lambda prediction, question, box: vqa_accuracy(prediction, question.answers),
    max_tokens=16,
)
DOCUMENTS = partial(
    LanguageTask, metric="ANLS", score=lambda prediction, question, box: anls(prediction, question.answers)
)
CAPTIONS = partial(LanguageTask, metric="CIDEr", score=None, max_tokens=64, prompt=lambda question: CAPTION_PROMPT)
GROUNDING = partial(
    LanguageTask,
    metric="accuracy at IoU 0.5",
    score=lambda prediction, question, box: float(predicted_iou(prediction, box or ()) >= 0.5),
    prompt=_box_prompt,
)
CHOICES = partial(LanguageTask, metric="accuracy", score=_choice, max_tokens=16)
"""Templates of tasks, to be named."""
TASKS = {
    task.name: task
    for task in (
        VQA(name="vqav2"),
        VQA(name="okvqa"),
        VQA(name="textvqa"),
        DOCUMENTS(name="docvqa"),
        DOCUMENTS(name="infovqa"),
        LanguageTask(
            name="chartqa",
            metric="relaxed accuracy",
            score=_relaxed,
            max_tokens=16,
            prompt=lambda question: f"{question.question}\nAnswer the question with a single word.",
        ),
        CHOICES(name="ai2d", prompt=_letter_prompt),
        CHOICES(name="mvbench", prompt=_video_prompt),
        LanguageTask(
            name="pope",
            metric="accuracy",
            score=lambda prediction, question, box: float(
                parse_yes_no(prediction) is yes_no_answer(question.answers[0])
            ),
        ),
        CHOICES(name="videomme", prompt=_subtitled_prompt),
        CHOICES(name="egoschema", prompt=_letter_prompt),
        CHOICES(name="perceptiontest", prompt=_letter_prompt),
        CHOICES(name="star", prompt=_video_prompt),  # lmms-eval lacks it
        CHOICES(name="tgifqa", prompt=_gif_prompt, score=_choice_or_word),
        CAPTIONS(name="coco"),
        CAPTIONS(name="flickr30k"),
        CAPTIONS(name="nocaps", prompt=lambda question: "Describe the image briefly."),  # lmms-eval's for PLM
        GROUNDING(name="refcoco"),
        GROUNDING(name="refcoco+"),
        GROUNDING(name="refcocog"),
    )
}
"""Tasks, by the names of `read_questions`."""
VIDEO_TASKS = ("mvbench", "videomme", "egoschema", "perceptiontest", "star", "tgifqa")
"""Tasks whose results depend on the number of frames."""
