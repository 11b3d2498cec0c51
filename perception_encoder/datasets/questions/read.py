"""Read the questions of a published dataset by its name, in its own layout or as the Hugging Face hub has it.

The hub has Parquet files `SPLIT-*.parquet` with images in them; `docs/datasets.md` lists the files of other layouts.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.questions.choices import (
    ai2d_row,
    egoschema_row,
    read_ai2d,
    read_mvbench,
    read_star,
    read_tgifqa,
    read_video_questions,
)
from perception_encoder.datasets.questions.question import (
    Corners,
    Question,
    QuestionEntry,
    find_file,
    json_entries,
    table_entries,
)
from perception_encoder.errors import ConfigError, DataError, one_line
from perception_encoder.formats.entries import are_numbers, list_objects, quoted, read_json
from perception_encoder.formats.media_directory import MediaDirectory
from perception_encoder.formats.tables import read_json_lines

POPE_PARTS = ("random", "popular", "adversarial")
CHART_PARTS = {"0": "human", "1": "augmented"} | {
    f"{part}{suffix}": part for part in ("human", "augmented") for suffix in ("", "_test")
}
"""The parts of ChartQA, by their names in the layouts."""


def _read_vqa(version: str, root: Path, split: str) -> Iterator[Question]:
    path = find_file(root, f"{version}OpenEnded_mscoco_{split}*_questions.json")
    annotations = find_file(root, f"{version}mscoco_{split}*_annotations.json")
    answers = {entry.identity("question_id"): entry for entry in json_entries(annotations, "annotations")}
    media, content = MediaDirectory(root), read_json(path)
    subtype = str(content.get("data_subtype", f"{split}2014")) if isinstance(content, dict) else ""
    for entry in json_entries(path, "questions"):
        identity, image = entry.identity("question_id"), entry.identity("image_id")
        if identity not in answers:
            raise DataError(f"{entry.where}: question {identity} has no answers in {annotations}")
        file = media.find(f"{subtype}/COCO_{subtype}_{image:0>12}.jpg", f"{image:0>12}.jpg")
        yield _answered(QuestionEntry(entry.where, {**answers[identity].fields, **entry.fields}, (file,)))


def _read_textvqa(root: Path, split: str) -> Iterator[Question]:
    media = MediaDirectory(root)
    for entry in json_entries(find_file(root, f"TextVQA_*_{split}.json"), "data"):
        image = entry.text("image_id")
        yield _answered(replace(entry, media=(media.find(f"train_images/{image}.jpg", f"test_images/{image}.jpg"),)))


def _read_documents(patterns: tuple[str, ...], root: Path, split: str) -> Iterator[Question]:
    media = MediaDirectory(root)
    for entry in json_entries(find_file(root, *(pattern.format(split) for pattern in patterns)), "data"):
        yield _answered(replace(entry, media=(media.find(entry.text("image", "image_local_name")),)))


def _answered(entry: QuestionEntry, row: int = 0) -> Question:
    """Return a question with people's answers, in any of these layouts."""
    return Question(
        id=entry.identity("question_id", "questionId"),
        question=entry.text("question"),
        media=entry.media,
        answers=entry.answers("answers"),
        block=entry.optional("image_id", "image", "image_local_name", "image_url", "docId", "ucsf_document_id"),
    )


def _read_chartqa(root: Path, split: str) -> Iterator[Question]:
    for part in ("human", "augmented"):
        path = find_file(root, f"{split}_{part}.json")
        media = MediaDirectory(path.parent)
        for row, entry in enumerate(json_entries(path)):
            file = media.find(f"png/{entry.text('imgname')}")
            yield _chart(QuestionEntry(entry.where, {**entry.fields, "type": part}, (file,)), row)


def _chart(entry: QuestionEntry, row: int) -> Question:
    part = entry.identity("type", "human_or_machine")
    if part not in CHART_PARTS:
        raise DataError(f"{entry.where}: the type {part!r} is unknown; known: {', '.join(CHART_PARTS)}")
    return Question(
        id=f"{CHART_PARTS[part]}/{row}",
        question=entry.text("question", "query"),
        media=entry.media,
        answers=entry.answers("answer", "label"),
        group=CHART_PARTS[part],
        block=entry.optional("imgname"),  # the hub's table does not say which questions share an image
    )


def _read_pope(root: Path, split: str) -> Iterator[Question]:
    """`split`: a part, or `test` for all three."""
    media = MediaDirectory(root)
    for part in POPE_PARTS if split == "test" else (split,):
        for where, fields in read_json_lines(find_file(root, f"*pope_{part}.json*")):
            entry = QuestionEntry(where, {**fields, "category": part})
            yield _pope(replace(entry, media=(media.find(f"val2014/{entry.text('image')}"),)))


def _pope(entry: QuestionEntry, row: int = 0) -> Question:
    answer, part = entry.text("label", "answer").strip().lower(), entry.text("category")
    if answer not in ("yes", "no"):
        raise DataError(f"{entry.where}: the answer {answer!r} is neither yes nor no")
    return Question(
        id=f"{part}/{entry.identity('question_id', 'id')}",
        question=entry.text("text", "question"),
        media=entry.media,
        answers=(answer,),
        group=part,
        block=entry.optional("image", "image_source"),
    )


def _read_coco(root: Path, split: str) -> Iterator[Question]:
    data = load_captions(find_file(root, f"captions_{split}*.json", "dataset_coco.json"), root, split)
    for key, media, texts in zip(data.keys, data.media, data.captions, strict=True):
        yield Question(id=key, question="", media=(media,), answers=texts, block=key)


def _coco_row(entry: QuestionEntry, row: int) -> Question:
    identity = entry.identity("file_name", "id", "question_id", "img_id", "image_id")
    answers = entry.answers("answer", "captions", "caption", "annotations_captions")
    return Question(id=identity, question="", media=entry.media, answers=answers, block=identity)


def _no_files(root: Path, split: str) -> Iterable[Question]:
    raise DataError(f"{root} has no Parquet file of the split {split!r}, as the hub has them")


class References(NamedTuple):
    """How a dataset is divided."""

    author: str
    splits: tuple[str, ...]


REFERENCES = {
    "refcoco": References("unc", ("val", "testA", "testB")),
    "refcoco+": References("unc", ("val", "testA", "testB")),
    "refcocog": References("umd", ("val", "test")),
}


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
            phrase = QuestionEntry(f"{entry.where}: sentences[{index}]", sentence)
            found = Question(
                id=phrase.identity("sent_id"),
                question=phrase.text("sent", "raw"),
                media=(media.find(f"train2014/{file}"),),
                box=box,
                block=file,
            )
            questions.append(found)
    if not questions:
        splits = ", ".join(sorted({entry.text("split") for entry in references}))
        raise DataError(f"{directory} has no phrase of the split {split!r}; there are: {splits}")
    return questions


def refcoco_row(entry: QuestionEntry, row: int) -> Iterator[Question]:
    """Yield the questions in a row of the hub's table, whose `file_name` is the image's with the object's number."""
    box, identity = _box(entry), entry.identity("question_id")
    image = re.sub(r"(_\d{12})_\d+\.", r"\1.", entry.optional("file_name"))
    for index, phrase in enumerate(entry.answers("answer")):
        yield Question(id=f"{identity}/{index}", question=phrase, media=entry.media, box=box, block=image)


def _box(entry: QuestionEntry) -> Corners:
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


def _read_references(path: Path) -> list[QuestionEntry]:
    try:
        with path.open("rb") as file:
            value: Any = _PlainUnpickler(file, encoding="utf-8").load()
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return [
        QuestionEntry(f"{path}: refs[{row}]", item)
        for row, item in enumerate(list_objects({"refs": value}, "refs", path))
    ]


class _Dataset(NamedTuple):
    files: Callable[[Path, str], Iterable[Question]]
    """Reads a split of the original layout."""
    row: Callable[[QuestionEntry, int], Question | Iterable[Question]] | None
    """Reads a row of the hub's table, given the row and its number; None for a dataset without such a table."""
    split: str = "val"
    """The split that papers report."""
    directory: str = ""
    """The directory of the hub's tables, if those of other datasets lie beside it."""


DOCUMENTS = ("{}_v1.0_withQT.json", "{}_v1.0.json")
READERS: dict[str, _Dataset] = {
    "vqav2": _Dataset(partial(_read_vqa, "v2_"), _answered),
    "okvqa": _Dataset(partial(_read_vqa, ""), _answered),
    "textvqa": _Dataset(_read_textvqa, _answered),
    "docvqa": _Dataset(partial(_read_documents, DOCUMENTS), _answered, directory="DocVQA"),
    "infovqa": _Dataset(
        partial(_read_documents, ("infographicsVQA_{}_v1.0*.json",)), _answered, directory="InfographicVQA"
    ),
    "chartqa": _Dataset(_read_chartqa, _chart, "test"),
    "pope": _Dataset(_read_pope, _pope, "test"),
    "coco": _Dataset(_read_coco, _coco_row),
    "flickr30k": _Dataset(_no_files, _coco_row, "test"),
    "nocaps": _Dataset(_no_files, _coco_row),
    "ai2d": _Dataset(read_ai2d, ai2d_row, "test"),
    "mvbench": _Dataset(read_mvbench, None, "test"),
    "videomme": _Dataset(partial(read_video_questions, "videomme"), None, "test"),
    "egoschema": _Dataset(_no_files, egoschema_row, "test"),
    "perceptiontest": _Dataset(partial(read_video_questions, "perceptiontest"), None),
    "star": _Dataset(read_star, None),
    "tgifqa": _Dataset(read_tgifqa, None, "test"),
    **{name: _Dataset(partial(read_refcoco, name), refcoco_row) for name in REFERENCES},
}
"""How datasets are read, by name."""


def default_split(name: str) -> str:
    """Return the split of a dataset that papers report."""
    return READERS[name].split


def read_questions(name: str, root: Path, split: str = "") -> list[Question]:
    """Read a split of a dataset from its public layout below `root`, images and videos unopened.

    `split`: by default the one that papers report; also a part of POPE, a task of MVBench, or "all": of RefCOCO, + and
    g, all splits that papers report, each a group. Raises ConfigError for an unknown dataset; DataError, with the file
    and the entry or line, for missing and bad files and entries, questions without an answer, and two of one id.
    """
    if name not in READERS:
        raise ConfigError(f"unknown dataset {name!r}; known: {', '.join(READERS)}")
    dataset = READERS[name]
    split = split or dataset.split
    if split == "all" and name in REFERENCES:
        every = {part: read_questions(name, root, part) for part in REFERENCES[name].splits}
        return [replace(item, id=f"{part}/{item.id}", group=part) for part, read in every.items() for item in read]
    parts = POPE_PARTS if name == "pope" else ()
    if parts and split not in ("test", *parts):
        raise DataError(f"POPE has no part {split!r}; known: test, {', '.join(parts)}")
    table = table_entries(root, "test" if parts else split, dataset.directory) if dataset.row else []
    questions = [] if table else list(dataset.files(root, split))
    for row, entry in enumerate(table):
        read = dataset.row(entry, row) if dataset.row else ()
        questions += [read] if isinstance(read, Question) else read
    if name in REFERENCES:  # the hub's val joins two authors' splits, which share objects: each is asked about once
        questions = list({(item.id, item.question, item.box): item for item in questions}.values())
    if split in parts:
        questions = [question for question in questions if question.group == split]
    return check_questions(questions, name, root, split)


def check_questions(questions: list[Question], name: str, root: Path, split: str) -> list[Question]:
    """Return questions; DataError if there are none, or two with the same id."""
    if not questions:
        raise DataError(f"{root} holds no question of the split {split!r} of {name}")
    identity, count = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise DataError(f"{root}: {count} questions have the id {identity!r}; ids must differ")
    return questions
