"""The questions of rendered scenes and documents by the dataset's name, and how their answers are scored."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.datasets.questions.question import Corners, Question
from perception_encoder.datasets.questions.read import check_questions
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.language.answers import normalize_answer, predicted_iou
from perception_encoder.evaluation.language.tasks import CAPTIONS, DOCUMENTS, LanguageTask
from synthetic.questions.rendered import read_documents, read_scene_captions, read_scenes

SPLIT = "test"
"""The split of unseen models and layouts."""


def _scene_answer(prediction: str, question: Question, box: Corners | None) -> float:
    """Score a box by its overlap, and any other answer by its words, as EvalAI normalizes them."""
    if box is not None:
        return float(predicted_iou(prediction, box) >= 0.5)
    return float(normalize_answer(prediction) in map(normalize_answer, question.answers))


def _as_asked(question: Question) -> str:
    return question.question


READERS = {"scenes": read_scenes, "scene captions": read_scene_captions, "documents": read_documents}


def read_rendered(name: str, root: Path, split: str = "") -> list[Question]:
    """Read a split of rendered data, by default `test`; errors as those of `read_questions`."""
    if name not in READERS:
        raise ConfigError(f"unknown dataset {name!r}; known: {', '.join(READERS)}")
    split = split or SPLIT
    return check_questions(READERS[name](root, split), name, root, split)


TASKS: dict[str, LanguageTask] = {
    task.name: task
    for task in (
        LanguageTask(name="scenes", metric="accuracy", score=_scene_answer, prompt=_as_asked, read=read_rendered),
        CAPTIONS(name="scene captions", read=read_rendered),
        DOCUMENTS(name="documents", prompt=_as_asked, read=read_rendered),
    )
}


def find_task(name: str) -> LanguageTask:
    """Return the task of a dataset; ConfigError lists the known ones."""
    if name not in TASKS:
        raise ConfigError(f"unknown dataset {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]
