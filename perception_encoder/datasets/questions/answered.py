"""Read questions with correct answers: VQAv2, OK-VQA, TextVQA, DocVQA, InfographicVQA, ChartQA, POPE; COCO captions.

Each in its own layout, or as the Hugging Face hub has it: Parquet files `SPLIT-*.parquet` with images in them.

    v2_OpenEnded_mscoco_val2014_questions.json  v2_mscoco_val2014_annotations.json  val2014/COCO_val2014_*.jpg   VQAv2
    OpenEnded_mscoco_val2014_questions.json     mscoco_val2014_annotations.json     val2014/COCO_val2014_*.jpg   OK-VQA
    TextVQA_0.5.1_val.json        train_images/*.jpg                                                             TextVQA
    val_v1.0_withQT.json          documents/*.png or spdocvqa_images/*.png                                       DocVQA
    infographicsVQA_val_v1.0*.json  images                                                              InfographicVQA
    test/test_human.json          test/test_augmented.json  test/png/*.png                                       ChartQA
    coco_pope_random.json         …popular… …adversarial…, in lines       val2014/COCO_val2014_*.jpg             POPE
    annotations/captions_val2014.json or dataset_coco.json (Karpathy's splits)                                   COCO
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.questions.question import (
    Entry,
    Question,
    QuestionMedia,
    find_file,
    json_entries,
    table_entries,
)
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import read_json
from perception_encoder.formats.media_directory import MediaDirectory
from perception_encoder.formats.tables import read_json_lines

POPE_PARTS = ("random", "popular", "adversarial")
CHART_PARTS = {"human": "human", "human_test": "human", "augmented": "augmented", "augmented_test": "augmented"}
"""The parts of ChartQA, by their names in the layouts."""


def read_vqav2(root: Path, split: str) -> list[Question]:
    """Read VQAv2: see the module; DataError for a missing or bad file, entry or annotation."""
    return _read_vqa(root, split, "v2_")


def read_okvqa(root: Path, split: str) -> list[Question]:
    """Read OK-VQA, in the layout of the first VQA dataset: see the module."""
    return _read_vqa(root, split, "")


def _read_vqa(root: Path, split: str, version: str) -> list[Question]:
    if entries := table_entries(root, split):
        return [_answered(entry, _cell(entry)) for entry in entries]
    questions = find_file(root, f"{version}OpenEnded_mscoco_{split}*_questions.json")
    annotations = find_file(root, f"{version}mscoco_{split}*_annotations.json")
    answers = {entry.identity("question_id"): entry for entry in json_entries(annotations, "annotations")}
    media, subtype = MediaDirectory(root), _subtype(read_json(questions), split)
    result = []
    for entry in json_entries(questions, "questions"):
        identity, image = entry.identity("question_id"), entry.identity("image_id")
        if identity not in answers:
            raise DataError(f"{entry.where}: question {identity} has no answers in {annotations}")
        padded = f"{image:0>12}.jpg"
        file = media.find(f"{subtype}/COCO_{subtype}_{padded}", padded)
        result.append(_answered(Entry(entry.where, {**answers[identity].fields, **entry.fields}), file))
    return result


def _subtype(value: Any, split: str) -> str:
    subtype = value.get("data_subtype") if isinstance(value, dict) else None
    return subtype if isinstance(subtype, str) else f"{split}2014"


def read_textvqa(root: Path, split: str) -> list[Question]:
    """Read TextVQA: see the module."""
    if entries := table_entries(root, split):
        return [_answered(entry, _cell(entry)) for entry in entries]
    media = MediaDirectory(root)
    return [
        _answered(entry, media.find(f"train_images/{image}.jpg", f"test_images/{image}.jpg"))
        for entry in json_entries(find_file(root, f"TextVQA_*_{split}.json"), "data")
        for image in (entry.text("image_id"),)
    ]


def read_docvqa(root: Path, split: str) -> list[Question]:
    """Read DocVQA: see the module."""
    return _read_documents(root, split, "DocVQA", (f"{split}_v1.0_withQT.json", f"{split}_v1.0.json"))


def read_infovqa(root: Path, split: str) -> list[Question]:
    """Read InfographicVQA: see the module."""
    return _read_documents(root, split, "InfographicVQA", (f"infographicsVQA_{split}_v1.0*.json",))


def _read_documents(root: Path, split: str, directory: str, patterns: tuple[str, ...]) -> list[Question]:
    if entries := table_entries(root, split, directory):
        return [_answered(entry, _cell(entry)) for entry in entries]
    media = MediaDirectory(root)
    return [
        _answered(entry, media.find(entry.text("image", "image_local_name")))
        for entry in json_entries(find_file(root, *patterns), "data")
    ]


def read_chartqa(root: Path, split: str) -> list[Question]:
    """Read ChartQA: see the module. The hub's table does not say which questions share an image."""
    if entries := table_entries(root, split):
        return [_chart(entry, _cell(entry), str(row)) for row, entry in enumerate(entries)]
    questions = []
    for part in ("human", "augmented"):
        path = find_file(root, f"{split}_{part}.json")
        media = MediaDirectory(path.parent)
        for row, entry in enumerate(json_entries(path)):
            named = Entry(entry.where, {**entry.fields, "type": part})
            questions.append(_chart(named, media.find(f"png/{entry.text('imgname')}"), str(row)))
    return questions


def _chart(entry: Entry, media: QuestionMedia, row: str) -> Question:
    part = entry.identity("type", "human_or_machine")
    group = {"0": "human", "1": "augmented"}.get(part) or CHART_PARTS.get(part)
    if group is None:
        raise DataError(f"{entry.where}: the type {part!r} is unknown; known: {', '.join(CHART_PARTS)}")
    return Question(
        id=f"{group}/{row}",
        question=entry.text("question", "query"),
        media=(media,),
        answers=entry.answers("answer", "label"),
        group=group,
        block=entry.optional("imgname"),
    )


def read_pope(root: Path, split: str) -> list[Question]:
    """Read POPE: see the module. `split`: `random`, `popular`, `adversarial`, or `test` for all three."""
    parts = POPE_PARTS if split == "test" else (split,)
    if unknown := set(parts) - set(POPE_PARTS):
        raise DataError(f"POPE has no part {unknown.pop()!r}; known: test, {', '.join(POPE_PARTS)}")
    if entries := table_entries(root, "test") or [
        table_entry for part in parts for table_entry in table_entries(root, part, "Full")
    ]:
        questions = [_pope(entry, entry.text("category"), _cell(entry)) for entry in entries]
        return [question for question in questions if question.group in parts]
    media = MediaDirectory(root)
    return [
        _pope(Entry(*line), part, media.find(f"val2014/{Entry(*line).text('image')}"))
        for part in parts
        for line in read_json_lines(find_file(root, f"*pope_{part}.json*"))
    ]


def _pope(entry: Entry, part: str, media: QuestionMedia) -> Question:
    answer = entry.text("label", "answer").strip().lower()
    if answer not in ("yes", "no"):
        raise DataError(f"{entry.where}: the answer {answer!r} is neither yes nor no")
    return Question(
        id=f"{part}/{entry.identity('question_id', 'id')}",
        question=entry.text("text", "question"),
        media=(media,),
        answers=(answer,),
        group=part,
        block=entry.optional("image", "image_source"),
    )


def read_coco(root: Path, split: str) -> list[Question]:
    """Read COCO's captions, as `load_captions` does: see the module."""
    if entries := table_entries(root, split):
        return [
            Question(
                id=entry.identity("file_name", "id", "question_id"),
                question="",
                media=(_cell(entry),),
                answers=entry.answers("answer", "captions", "caption"),
            )
            for entry in entries
        ]
    data = load_captions(find_file(root, f"captions_{split}*.json", "dataset_coco.json"), root, split)
    captions: list[list[str]] = [[] for _ in data.keys]
    for owner, caption in zip(data.owners, data.captions, strict=True):
        captions[owner].append(caption)
    items: Iterable[tuple[str, QuestionMedia, list[str]]] = zip(data.keys, data.media, captions, strict=True)
    return [
        Question(id=key, question="", media=(media,), answers=tuple(texts), block=key) for key, media, texts in items
    ]


def _answered(entry: Entry, media: QuestionMedia) -> Question:
    """Return a question with people's answers, in any of these layouts."""
    return Question(
        id=entry.identity("question_id", "questionId"),
        question=entry.text("question"),
        media=(media,),
        answers=entry.answers("answers"),
        block=entry.optional("image_id", "image", "image_local_name", "image_url", "docId", "ucsf_document_id"),
    )


def _cell(entry: Entry) -> QuestionMedia:
    assert entry.image is not None  # of a table
    return entry.image
