"""Questions about what `python -m synthetic.scenes` and `python -m synthetic.documents` made.

PATH/SPLIT/*.tar         KEY.jpg with KEY.json: questions, boxes and captions          scenes
PATH/SPLIT/words.jsonl   `image` and `questions` of each document, images next to it    documents
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perception_encoder.datasets.questions.question import Question, QuestionEntry
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import list_objects, text_list
from perception_encoder.formats.media_directory import MediaDirectory
from perception_encoder.formats.tables import read_json_lines
from synthetic.questions.scene_questions import BOX_REQUEST, scene_answers, scene_boxes
from synthetic.scenes.samples.reading import StoredScene, read_scene_tars

GROUNDING = "grounding"
"""The group of the questions for boxes."""


def read_scenes(root: Path, split: str) -> list[Question]:
    """Read the questions of scenes, and one for the box of each object that is the only one of its kind.

    Groups are the questions' types, and "grounding". Raises DataError for a missing or damaged tar.
    """
    return [question for scene in _scenes(root, split) for question in _questions_of(scene)]


def read_scene_captions(root: Path, split: str) -> list[Question]:
    """Read the short caption of each scene; DataError for a missing or damaged tar, and a scene without one."""
    return [_captioned(scene) for scene in _scenes(root, split)]


def _scenes(root: Path, split: str) -> Iterator[StoredScene]:
    tars = sorted((root / split).glob("*.tar"))
    if not tars:
        raise DataError(f"{root} has no {split}/*.tar; `python -m synthetic.scenes` makes them")
    return read_scene_tars(tars)


def _captioned(scene: StoredScene) -> Question:
    captions = text_list(scene.metadata.get("caption"), f"{scene.where}: `caption`")
    if not captions:
        raise DataError(f"{scene.where}: has no caption")
    return Question(id=scene.key, question="", media=(scene.image,), answers=(captions[0],), block=scene.key)


def _questions_of(scene: StoredScene) -> Iterator[Question]:
    key, media = scene.key, (scene.image,)
    for number, item in enumerate(scene_answers(scene.metadata, scene.where)):
        identity, answers = f"{key}/{number}", (item.answer,)
        yield Question(id=identity, question=item.question, media=media, answers=answers, group=item.type, block=key)
    for box in scene_boxes(scene.metadata, scene.where):
        text_of_box = BOX_REQUEST.format(box.name)
        identity = f"{key}/box of {box.name}"
        yield Question(id=identity, question=text_of_box, media=media, box=box.box, group=GROUNDING, block=key)


def read_documents(root: Path, split: str) -> list[Question]:
    """Read the questions of documents, grouped by their task, such as "total"; DataError for a missing or bad file."""
    path = root / split / "words.jsonl"
    if not path.is_file():
        raise DataError(f"{root} has no {split}/words.jsonl; `python -m synthetic.documents` makes it")
    media, questions = MediaDirectory(path.parent), []
    for name, fields in read_json_lines(path):
        entry = QuestionEntry(name, fields)
        key, image = entry.identity("id"), media.directory / entry.text("image")
        for row, value in enumerate(list_objects(fields, "questions", entry.where)):
            item = QuestionEntry(f"{entry.where}: questions[{row}]", value)
            questions.append(
                Question(
                    id=f"{key}/{row}",
                    question=item.text("question"),
                    media=(image,),
                    answers=item.answers("answer"),
                    group=item.optional("task"),
                    block=key,
                )
            )
    return questions
