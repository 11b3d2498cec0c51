"""Read questions with choices, about diagrams (AI2D) and videos.

AI2D:     images/0.png, questions/0.png.json, ai2d_test_ids.csv (the original; abc_images/ has letters for labels), or
          the hub's data/test-*.parquet with images, `options` and `answer`.
MVBench:  json/TASK.json for each of 20 tasks, and the videos of each in a directory of video/.
Video-MME, PerceptionTest: the hub's SPLIT-*.parquet, with columns as lmms-eval reads them, and the videos at any depth.
EgoSchema: the hub's SPLIT-*.parquet with the videos in it, with columns as mteb reads them.
STAR:     STAR_val.json, and the videos of Charades at any depth.
TGIF-QA:  Test_action_question.csv, Test_transition_question.csv and Test_frameqa_question.csv, tab-separated, and the
          GIFs at any depth. A question of frameqa has a word for an answer, no choices; those that count are left out.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from perception_encoder.datasets.questions.question import (
    Question,
    QuestionEntry,
    choice_question,
    find_file,
    json_entries,
)
from perception_encoder.errors import DataError, one_line
from perception_encoder.formats.entries import quoted, read_json, read_lines, text_list
from perception_encoder.formats.media_directory import Clip, MediaDirectory, MediaSource
from perception_encoder.formats.tables import read_table, split_tables
from perception_encoder.preprocess.source import IMAGE_SUFFIXES


def read_ai2d(root: Path, split: str) -> Iterator[Question]:
    """Read AI2D: see the module. `split`: `test` or `train`, by the file of test ids.

    Raises DataError for a missing or bad file, and for a question whose answer is not among its choices.
    """
    if split not in ("test", "train"):
        raise DataError(f"AI2D has no split {split!r}; known: test, train")
    if not (root / "questions").is_dir():
        raise DataError(f"{root} has no questions/, and no Parquet file of the split {split!r}")
    test = set(read_lines(find_file(root, "ai2d_test_ids.csv")))
    for path in sorted((root / "questions").glob("*.json"), key=lambda path: (len(path.name), path.name)):
        if (path.name.partition(".")[0] in test) != (split == "test"):
            continue
        value, image = read_json(path), path.name.removesuffix(".json")
        questions = value.get("questions") if isinstance(value, dict) else None
        if not isinstance(questions, dict):
            raise DataError(f"{path}: `questions` is {quoted(questions)}; it must be an object")
        for text, fields in questions.items():
            entry = QuestionEntry(f"{path}: questions[{quoted(text)}]", fields if isinstance(fields, dict) else {})
            lettered = root / "abc_images" / image
            plain = not entry.fields.get("abcLabel") or not lettered.is_file()
            yield choice_question(
                entry,
                identity=entry.identity("questionId"),
                question=text,
                media=(root / "images" / image if plain else lettered,),
                choices="answerTexts",
                answer="correctAnswer",
                block=image,
            )


def ai2d_row(entry: QuestionEntry, row: int) -> Question:
    """Return the question in a row of the hub's table."""
    return choice_question(
        entry,
        identity=str(row),
        question=entry.text("question"),
        media=entry.media,
        choices="options",
        answer="answer",
        block=entry.optional("image_id"),
    )


# fmt: off
DIRECTORIES = {
    "action_antonym": "ssv2_video", "action_count": "perception/videos", "action_localization": "sta/sta_video",
    "action_prediction": "star/Charades_v1_480", "action_sequence": "star/Charades_v1_480",
    "character_order": "perception/videos", "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa", "episodic_reasoning": "tvqa/frames_fps3_hq",
    "fine_grained_action": "Moments_in_Time_Raw/videos", "fine_grained_pose": "nturgbd",
    "moving_attribute": "clevrer/video_validation", "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation", "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480", "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video", "state_change": "perception/videos", "unexpected_action": "FunQA_test/test",
}
# fmt: on
"""The tasks, with the directories of their videos in the published archives."""
FRAME_RATE = 3
"""Frame rate of videos stored as directories of frames (TVQA)."""


def read_mvbench(root: Path, split: str) -> Iterator[Question]:
    """Read MVBench. `split`: a task, or `test` for all tasks with a file; each task is a group.

    A question's video is cut at its `start` and `end`, in seconds, if it has them. Raises DataError for an unknown
    task, a missing or bad file, and an answer that is not among the candidates.
    """
    if split not in ("test", *DIRECTORIES):
        raise DataError(f"MVBench has no task {split!r}; known: test (all), {', '.join(DIRECTORIES)}")
    annotations = root / "json" if (root / "json").is_dir() else root
    tasks = [split] if split != "test" else [item for item in DIRECTORIES if (annotations / f"{item}.json").is_file()]
    if not tasks:
        raise DataError(f"{annotations} has no TASK.json; known tasks: {', '.join(DIRECTORIES)}")
    videos = MediaDirectory(root / "video" if (root / "video").is_dir() else root)
    for task in tasks:
        for row, entry in enumerate(json_entries(annotations / f"{task}.json")):
            name = entry.text("video")
            path, present = f"{DIRECTORIES[task]}/{name}", entry.fields.get
            start, end = (entry.seconds(part) if present(part) is not None else None for part in ("start", "end"))
            media, frames = _media(videos, path, start, end)
            yield choice_question(
                entry,
                identity=f"{task}/{row}",
                question=entry.text("question"),
                media=media,
                frames=frames,
                choices="candidates",
                answer="answer",
                block=path,
                group=task,
            )


def _media(
    videos: MediaDirectory, name: str, start: float | None, end: float | None
) -> tuple[tuple[MediaSource, ...], bool]:
    """Return a video, a part of one, or its frames, and whether they are frames."""
    path = videos.directory / name
    if os.path.isdir(path):  # not `Path.is_dir`, which raises for a name that is too long
        files = sorted(item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES)
        first = int((start or 0) * FRAME_RATE)
        last = len(files) if end is None else max(first + 1, int(end * FRAME_RATE))
        return tuple(files[first:last] or files[-1:] or [path]), True
    file = videos.find(name)
    return (file if start is None else Clip(file, start, end),), False


_LETTER = re.compile(r"\s*\(?([A-Z])[.):]\s*")


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


def read_video_questions(name: str, root: Path, split: str) -> Iterator[Question]:
    """Read a dataset of `COLUMNS`; DataError for a missing split or column, and for a bad entry."""
    columns, tables = COLUMNS[name], split_tables(root, split)
    if not tables:
        raise DataError(f"{root} has no {split}-*.parquet for {name}")
    videos = MediaDirectory(root if root.is_dir() else root.parent)
    for table in tables:
        for row, fields in enumerate(read_table(table)):
            entry = QuestionEntry(f"{table}: row {row + 1}", fields)
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


def _lettered(entry: QuestionEntry, video: str, *, choices: str, answer: str, **rest: Any) -> Question:
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


def egoschema_row(entry: QuestionEntry, row: int) -> Question:
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
            entry = QuestionEntry(where, fields)
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
