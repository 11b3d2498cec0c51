"""MVBench: 20 tasks on videos, with choices: json/TASK.json, and the videos of each task in a directory of video/."""

from __future__ import annotations

import os
from pathlib import Path

from perception_encoder.datasets.questions.question import Entry, Question, QuestionMedia, choice_question, json_entries
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import Clip, MediaDirectory
from perception_encoder.preprocess.media_types import IMAGE_SUFFIXES

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
"""The tasks, and where the published archives have their videos."""
FRAME_RATE = 3
"""Frames a second of the videos that are directories of frames (TVQA's)."""


def read_mvbench(root: Path, split: str) -> list[Question]:
    """Read MVBench. `split`: a task, or `test` for all whose file exists; each is a group.

    A question's video is cut at its `start` and `end`, in seconds, if it has them. Raises DataError for an unknown
    task, a missing or bad file, and an answer that is not among the candidates.
    """
    if split not in ("test", *DIRECTORIES):
        raise DataError(f"MVBench has no task {split!r}; known: test (all), {', '.join(DIRECTORIES)}")
    annotations = root / "json" if (root / "json").is_dir() else root
    tasks = [split] if split != "test" else [each for each in DIRECTORIES if (annotations / f"{each}.json").is_file()]
    if not tasks:
        raise DataError(f"{annotations} has no TASK.json; known tasks: {', '.join(DIRECTORIES)}")
    media = MediaDirectory(root / "video" if (root / "video").is_dir() else root)
    return [
        _question(entry, task, row, media)
        for task in tasks
        for row, entry in enumerate(json_entries(annotations / f"{task}.json"))
    ]


def _question(entry: Entry, task: str, row: int, videos: MediaDirectory) -> Question:
    name = entry.text("video")
    media, frames = _media(videos, DIRECTORIES[task], name, _seconds(entry, "start"), _seconds(entry, "end"))
    return choice_question(
        entry,
        identity=f"{task}/{row}",
        question=entry.text("question"),
        media=media,
        frames=frames,
        choices="candidates",
        answer="answer",
        block=f"{DIRECTORIES[task]}/{name}",
        group=task,
    )


def _seconds(entry: Entry, name: str) -> float | None:
    value = entry.fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
        raise DataError(f"{entry.where}: `{name}` is {value!r}; it must be a number of seconds")
    return float(value)


def _media(
    videos: MediaDirectory, directory: str, name: str, start: float | None, end: float | None
) -> tuple[tuple[QuestionMedia, ...], bool]:
    """Return a video, a part of one, or its frames, and whether they are frames."""
    path = videos.directory / directory / name
    if os.path.isdir(path):  # not `Path.is_dir`, which raises for a name that is too long
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)
        first = int((start or 0) * FRAME_RATE)
        last = len(files) if end is None else max(first + 1, int(end * FRAME_RATE))
        return tuple(files[first:last] or files[-1:] or [path]), True
    file = path if os.path.isfile(path) else videos.find(name)
    return (file if start is None else Clip(file, start, end),), False
