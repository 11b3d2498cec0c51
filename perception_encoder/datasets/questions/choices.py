"""Read questions with choices: AI2D about diagrams, MVBench about videos (20 tasks).

AI2D:     images/0.png, questions/0.png.json, ai2d_test_ids.csv (the original; abc_images/ has letters for labels), or
          the hub's data/test-*.parquet with images, `options` and `answer`.
MVBench:  json/TASK.json, and the videos of each task in a directory of video/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from perception_encoder.datasets.questions.question import Entry, Question, choice_question, find_file, json_entries
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import quoted, read_json, read_lines
from perception_encoder.formats.media_directory import Clip, MediaDirectory, MediaSource
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
            entry = Entry(f"{path}: questions[{quoted(text)}]", fields if isinstance(fields, dict) else {})
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


def ai2d_row(entry: Entry, row: int) -> Question:
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
