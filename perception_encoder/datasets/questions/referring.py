"""Read RefCOCO, RefCOCO+ and RefCOCOg: phrases for one object of an image, with its box.

    refcoco/refs(unc).p  refcoco/instances.json  train2014/COCO_train2014_*.jpg      the original layout
    data/val-*.parquet                                                            the hub's: `answer`, `bbox`, `image`

The original is a pickle. It is read without running code: anything but numbers, texts, lists and dicts is an error.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from perception_encoder.datasets.questions.question import Corners, Entry, Question, find_file, json_entries
from perception_encoder.errors import DataError, one_line
from perception_encoder.formats.entries import are_numbers, list_objects, quoted
from perception_encoder.formats.media_directory import MediaDirectory, MediaSource


class References(NamedTuple):
    """How a dataset is divided."""

    author: str
    """Whose split is used."""
    splits: tuple[str, ...]
    """The splits that papers report."""


REFERENCES = {
    "refcoco": References("unc", ("val", "testA", "testB")),
    "refcoco+": References("unc", ("val", "testA", "testB")),
    "refcocog": References("umd", ("val", "test")),
}
"""The datasets."""


def read_refcoco(name: str, root: Path, split: str) -> list[Question]:
    """Read a dataset of `REFERENCES`: see the module. `split`: `val`, `testA`, `testB`, or RefCOCOg's `test`.

    Each phrase is a question. Raises DataError for a missing or bad file, an object without a box, and a split without
    a phrase.
    """
    directory = root / name if (root / name).is_dir() else root
    references = _read_references(find_file(directory, f"refs({REFERENCES[name].author}).p"))
    instances = find_file(directory, "instances.json")
    images = {entry.identity("id"): entry.text("file_name") for entry in json_entries(instances, "images")}
    boxes = {entry.identity("id"): entry for entry in json_entries(instances, "annotations")}
    media = MediaDirectory(root)
    questions = []
    for entry in references:
        if entry.text("split") != split:
            continue
        identity, annotation = entry.identity("image_id"), entry.identity("ann_id")
        if identity not in images or annotation not in boxes:
            raise DataError(f"{entry.where}: image {identity} or object {annotation} is not in {instances}")
        box, file = _box(boxes[annotation]), images[identity]
        for index, sentence in enumerate(list_objects(entry.fields, "sentences", entry.where)):
            phrase = Entry(f"{entry.where}: sentences[{index}]", sentence)
            question = phrase.identity("sent_id"), phrase.text("sent", "raw")
            questions.append(_question(*question, (media.find(f"train2014/{file}"),), box, file))
    if not questions:
        splits = ", ".join(sorted({entry.text("split") for entry in references}))
        raise DataError(f"{directory} has no phrase of the split {split!r}; there are: {splits}")
    return questions


def refcoco_row(entry: Entry, row: int) -> Iterator[Question]:
    """Yield the questions in a row of the hub's table, whose `file_name` is the image's with the object's number."""
    box, identity = _box(entry), entry.identity("question_id")
    image = re.sub(r"(_\d{12})_\d+\.", r"\1.", entry.optional("file_name"))
    for index, phrase in enumerate(entry.answers("answer")):
        yield _question(f"{identity}/{index}", phrase, entry.media, box, image)


def _question(identity: str, phrase: str, media: tuple[MediaSource, ...], box: Corners, block: str) -> Question:
    return Question(id=identity, question=phrase, media=media, box=box, block=block)


def _box(entry: Entry) -> Corners:
    """Return the corners of a COCO box given as left, top, width and height, in pixels."""
    value: Any = entry.fields.get("bbox")
    if not are_numbers(value) or len(value) != 4 or min(value[2:]) <= 0:
        raise DataError(f"{entry.where}: `bbox` is {quoted(value)}; it must be x, y, width and height in pixels")
    left, top, width, height = map(float, value)
    return left, top, left + width, top + height


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles builtin values only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it tries to load {module}.{name}, which is not allowed")


def _read_references(path: Path) -> list[Entry]:
    try:
        with path.open("rb") as file:
            value: Any = _PlainUnpickler(file, encoding="utf-8").load()
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return [Entry(f"{path}: refs[{row}]", item) for row, item in enumerate(list_objects({"refs": value}, "refs", path))]
