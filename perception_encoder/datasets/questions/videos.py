"""Read multiple-choice questions about videos: Video-MME, EgoSchema, PerceptionTest, STAR and TGIF-QA.

Video-MME, PerceptionTest: the hub's SPLIT-*.parquet, with columns as lmms-eval reads them, and the videos at any depth.
EgoSchema: the hub's SPLIT-*.parquet with the videos in it, with columns as mteb reads them.
STAR:     STAR_val.json, and the videos of Charades at any depth.
TGIF-QA:  Test_action_question.csv, Test_transition_question.csv and Test_frameqa_question.csv, tab-separated, and the
          GIFs at any depth. A question of frameqa has a word for an answer, no choices; those that count are left out.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from perception_encoder.datasets.questions.question import Entry, Question, choice_question, find_file, json_entries
from perception_encoder.errors import DataError, one_line
from perception_encoder.formats.entries import quoted, text_list
from perception_encoder.formats.media_directory import Clip, MediaDirectory
from perception_encoder.formats.tables import read_table, split_tables

_LETTER = re.compile(r"\s*\(?([A-Z])[.):]\s*")
"""The beginning of choices in some tables, such as "A. "."""


class _Columns(NamedTuple):
    """Where a table has the fields of a question."""

    identity: str
    video: str
    choices: str
    answer: str
    group: str = ""


COLUMNS: Mapping[str, _Columns] = {
    "videomme": _Columns("question_id", "videoid", "options", "answer", "duration"),
    "perceptiontest": _Columns("question_id", "video_name", "options", "answer_id"),
}
"""Columns in lower case, as tables are read."""


def read_video_table(name: str, root: Path, split: str) -> Iterator[Question]:
    """Read a dataset of `COLUMNS`; DataError for a missing split or column, and for a bad entry."""
    columns, tables = COLUMNS[name], split_tables(root, split)
    if not tables:
        raise DataError(f"{root} has no {split}-*.parquet for {name}")
    videos = MediaDirectory(root if root.is_dir() else root.parent)
    for table in tables:
        for row, fields in enumerate(read_table(table)):
            entry = Entry(f"{table}: row {row + 1}", fields)
            if missing := next((item for item in columns if item and item not in fields), None):
                raise DataError(f"{table} has no column {missing!r}, but {', '.join(map(repr, fields))}")
            video = entry.identity(columns.video)
            yield _lettered(
                entry,
                video,
                identity=f"{video}/{entry.identity(columns.identity)}",
                media=(videos.find(f"{video}.mp4", video),),
                choices=columns.choices,
                answer=columns.answer,
                group=entry.optional(columns.group) if columns.group else "",
            )


def _lettered(entry: Entry, video: str, *, choices: str, answer: str, **rest: Any) -> Question:
    """Return a question whose choices may have letters before them; its answer is a letter, an index or a choice."""
    texts, value = text_list(entry.fields.get(choices), f"{entry.where}: `{choices}`"), entry.fields.get(answer)
    if isinstance(value, str) and value in texts:
        value = texts.index(value)
    elif isinstance(value, str) and re.fullmatch(r"\(?[A-Z][.)]?", value.strip()):
        value = ord(value.strip().strip("(.)")) - ord("A")
    letters = [_LETTER.match(text) for text in texts]
    if "".join(found[1] for found in letters if found) == ascii_uppercase[: len(texts)]:
        texts = [_LETTER.sub("", text, count=1) for text in texts]
    entry = replace(entry, fields={**entry.fields, choices: texts, answer: value})
    return choice_question(entry, question=entry.text("question"), choices=choices, answer=answer, block=video, **rest)


def egoschema_row(entry: Entry, row: int) -> Question:
    """Return the question in a row of the hub's table."""
    return _lettered(
        entry,
        entry.identity("video_id"),
        identity=entry.identity("question_id"),
        media=entry.media,
        choices="candidates",
        answer="answer",
    )


def read_star(root: Path, split: str) -> Iterator[Question]:
    """Read STAR: each question is about a part of a video, in seconds; the kinds of questions are groups."""
    path, videos = find_file(root, f"STAR_{split}.json"), MediaDirectory(root)
    for entry in json_entries(path):
        video, listed = entry.identity("video_id"), entry.fields.get("choices")
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise DataError(f"{entry.where}: `choices` is {quoted(listed)}; it must be a list of objects")
        identity = entry.identity("question_id")
        yield _lettered(
            replace(entry, fields={**entry.fields, "choices": [item.get("choice") for item in listed]}),
            video,
            identity=identity,
            media=(Clip(videos.find(f"{video}.mp4", video), entry.seconds("start"), entry.seconds("end")),),
            choices="choices",
            answer="answer",
            group=identity.partition("_")[0],
        )


def read_tgifqa(root: Path, split: str) -> Iterator[Question]:
    """Read the questions with choices and those about frames of TGIF-QA, each kind a group."""
    videos = MediaDirectory(root)
    for kind in ("action", "transition", "frameqa"):
        for where, fields in _tab_separated(find_file(root, f"{split.capitalize()}_{kind}_question.csv")):
            entry = Entry(where, fields)
            name = entry.text("gif_name")
            question = Question(
                id=f"{kind}/{entry.identity('key', 'vid_id')}/{where.rpartition(':')[2]}",
                question=entry.text("question"),
                media=(videos.find(f"{name}.gif", f"{name}.mp4", name),),
                group=kind,
                block=name,
            )
            choices = [fields.get(f"a{number}") or "" for number in range(1, 6)]
            if kind == "frameqa":
                yield replace(question, answers=entry.answers("answer"))
                continue
            answer = entry.identity("answer")
            if not all(choices) or not answer.isdecimal() or int(answer) >= len(choices):
                raise DataError(f"{where}: the answer {answer!r} is not among the choices {quoted(choices)}")
            yield replace(question, choices=tuple(choices), correct=int(answer))


def _tab_separated(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row's name and fields of a tab-separated file that is called .csv."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(csv.DictReader(file, delimiter="\t"), 2):
                yield f"{path}:{number}", {key: value for key, value in fields.items() if key and value is not None}
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
