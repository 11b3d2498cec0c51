"""Read the questions, and the boxes to ask for, of a rendered scene's JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from perception_encoder.errors import DataError
from perception_encoder.formats.entries import are_numbers, list_objects, text_field

BOX_REQUEST = "Give the box of the {}."
"""How the box of an object is asked for."""


class SceneAnswer(NamedTuple):
    """A question about a scene and its only answer."""

    type: str
    """Empty if the scene does not say."""
    question: str
    answer: str


class SceneBox(NamedTuple):
    """The only object of its kind in a scene."""

    name: str
    box: tuple[float, float, float, float]
    """Left, top, right and bottom, in pixels."""


def scene_answers(metadata: Mapping[str, Any], where: str) -> list[SceneAnswer]:
    """Return a scene's questions in order; DataError, which begins with `where`, for a field of another form."""
    answers = []
    for number, item in enumerate(list_objects({"questions": metadata.get("questions", [])}, "questions", where)):
        name = f"{where}: questions[{number}]"
        question, answer = text_field(item, "question", name), text_field(item, "answer", name)
        answers.append(SceneAnswer(str(item.get("type", "")), question, answer))
    return answers


def scene_boxes(metadata: Mapping[str, Any], where: str) -> list[SceneBox]:
    """Return the objects that are the only ones of their kind; DataError for a field of another form."""
    objects = list_objects({"objects": metadata.get("objects", [])}, "objects", where)
    named = [(text_field(item, "kind", f"{where}: objects[{at}]"), item.get("box")) for at, item in enumerate(objects)]
    kinds = Counter(name for name, _ in named)
    boxes = []
    for name, box in named:
        if kinds[name] == 1 and isinstance(box, (list, tuple)) and len(box) == 4:
            if not are_numbers(list(box)):
                raise DataError(f"{where}: the box of the {name} is {box!r}; it must be four numbers")
            left, top, right, bottom = map(float, box)
            boxes.append(SceneBox(name, (left, top, right, bottom)))
    return boxes
