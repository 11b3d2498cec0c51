"""The language tasks by dataset: their prompts, the lengths of their answers, and how an answer is scored.

The prompts are those of LLaVA-1.5 and lmms-eval, which published results of short answers are made with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perception_encoder.datasets.questions.question import Corners, Question
from perception_encoder.evaluation.language.boxes import box_iou_accuracy
from perception_encoder.evaluation.language.choices import multiple_choice, parse_yes_no, yes_no_answer
from perception_encoder.evaluation.language.short_answers import anls, normalize_answer, relaxed_accuracy, vqa_accuracy
from perception_encoder.preprocess.conversation import CAPTION_PROMPT

SHORT = "\nAnswer the question using a single word or phrase."

Score = Callable[[str, Question, Corners | None], float]
"""Scores a prediction, in [0, 1]; the box is the question's, in thousandths of the image."""


@dataclass(frozen=True, kw_only=True)
class LanguageTask:
    """How the questions of a dataset are put, and how the answers are scored."""

    metric: str
    """The name of the score's mean."""
    score: Score | None
    """None for captions, which are scored together."""
    max_tokens: int = 32
    prompt: Callable[[Question], str] = lambda question: question.question + SHORT


def _vqa(prediction: str, question: Question, box: Corners | None) -> float:
    return vqa_accuracy(prediction, question.answers)


def _anls(prediction: str, question: Question, box: Corners | None) -> float:
    return anls(prediction, question.answers)


def _relaxed(prediction: str, question: Question, box: Corners | None) -> float:
    """A final full stop is left out: models end sentences with it, and answers never have it."""
    return max(relaxed_accuracy(prediction.strip().removesuffix("."), answer) for answer in question.answers)


def _choice(prediction: str, question: Question, box: Corners | None) -> float:
    return multiple_choice(prediction, question.choices, -1 if question.correct is None else question.correct)


def _yes_no(prediction: str, question: Question, box: Corners | None) -> float:
    return float(parse_yes_no(prediction) is yes_no_answer(question.answers[0]))


def _of_scene(prediction: str, question: Question, box: Corners | None) -> float:
    """A box by its overlap, and any other answer by its words, as EvalAI normalises them."""
    if box is not None:
        return box_iou_accuracy(prediction, box)
    return float(normalize_answer(prediction) in map(normalize_answer, question.answers))


def _grounding(prediction: str, question: Question, box: Corners | None) -> float:
    return box_iou_accuracy(prediction, box or ())


def _lettered(form: str, question: Question) -> str:
    """Return the choices, one a line, in a form such as `(A) text`."""
    return "\n".join(form.format(chr(ord("A") + row), choice) for row, choice in enumerate(question.choices))


def _chart_prompt(question: Question) -> str:
    return f"{question.question}\nAnswer the question with a single word."


def _diagram_prompt(question: Question) -> str:
    choices = _lettered("{}. {}", question)
    return f"{question.question}\n{choices}\nAnswer with the option's letter from the given choices directly."


def _video_prompt(question: Question) -> str:
    return f"Question:{question.question}\nOption:\n{_lettered('({}) {}', question)}\nOnly give the best option.\n"


def _caption_prompt(question: Question) -> str:
    return CAPTION_PROMPT


def _plain(question: Question) -> str:
    return question.question


def _box_prompt(question: Question) -> str:
    return (
        f"Provide the bounding box of the region that this phrase describes: {question.question}\n"
        "Answer with [x, y, x, y]: left, top, right and bottom as integers from 000 to 999."
    )


_VQA = LanguageTask(metric="VQA accuracy", score=_vqa, max_tokens=16)
_DOCUMENTS = LanguageTask(metric="ANLS", score=_anls)
_CAPTIONS = LanguageTask(metric="CIDEr", score=None, max_tokens=64, prompt=_caption_prompt)
_GROUNDING = LanguageTask(metric="accuracy at IoU 0.5", score=_grounding, prompt=_box_prompt)
TASKS = {
    "vqav2": _VQA,
    "okvqa": _VQA,
    "textvqa": _VQA,
    "docvqa": _DOCUMENTS,
    "infovqa": _DOCUMENTS,
    "chartqa": LanguageTask(metric="relaxed accuracy", score=_relaxed, max_tokens=16, prompt=_chart_prompt),
    "ai2d": LanguageTask(metric="accuracy", score=_choice, max_tokens=16, prompt=_diagram_prompt),
    "mvbench": LanguageTask(metric="accuracy", score=_choice, max_tokens=16, prompt=_video_prompt),
    "pope": LanguageTask(metric="accuracy", score=_yes_no),
    "coco": _CAPTIONS,
    "refcoco": _GROUNDING,
    "refcoco+": _GROUNDING,
    "refcocog": _GROUNDING,
    "scenes": LanguageTask(metric="accuracy", score=_of_scene, prompt=_plain),
    "scene captions": _CAPTIONS,
    "documents": LanguageTask(metric="ANLS", score=_anls, prompt=_plain),
}
"""Tasks, by the names of `read_questions`."""
