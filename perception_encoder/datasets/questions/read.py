"""Read the questions of a published dataset by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from perception_encoder.datasets.questions import answered, referring
from perception_encoder.datasets.questions.choices import read_ai2d, read_mvbench
from perception_encoder.datasets.questions.question import Question
from perception_encoder.errors import ConfigError, DataError

READERS: dict[str, Callable[[Path, str], list[Question]]] = {
    "vqav2": answered.read_vqav2,
    "okvqa": answered.read_okvqa,
    "textvqa": answered.read_textvqa,
    "docvqa": answered.read_docvqa,
    "infovqa": answered.read_infovqa,
    "chartqa": answered.read_chartqa,
    "pope": answered.read_pope,
    "coco": answered.read_coco,
    "ai2d": read_ai2d,
    "mvbench": read_mvbench,
    **referring.READERS,
}
"""Readers by dataset name; their modules describe the layouts."""
SPLITS = dict.fromkeys(("chartqa", "ai2d", "mvbench", "pope"), "test")
"""The split that papers report, if it is not `val`."""


def default_split(name: str) -> str:
    """Return the split of a dataset that papers report."""
    return SPLITS.get(name, "val")


def read_questions(name: str, root: Path, split: str = "") -> list[Question]:
    """Read a split of a dataset from its public layout below `root`, images and videos unopened.

    `split`: by default the one that papers report. Raises ConfigError for an unknown dataset; DataError, with the file
    and the entry or line, for missing and bad files and entries, questions without an answer, and two of one id.
    """
    if name not in READERS:
        raise ConfigError(f"unknown dataset {name!r}; known: {', '.join(READERS)}")
    split = split or default_split(name)
    return check_questions(READERS[name](root, split), name, root, split)


def check_questions(questions: list[Question], name: str, root: Path, split: str) -> list[Question]:
    """Return questions; DataError if there are none, or two with the same id."""
    if not questions:
        raise DataError(f"{root} holds no question of the split {split!r} of {name}")
    identity, count = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise DataError(f"{root}: {count} questions have the id {identity!r}; ids must differ")
    return questions
