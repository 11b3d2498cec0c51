"""MVBench: whole videos, parts of videos, and directories of frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.questions.mvbench import DIRECTORIES, read_mvbench
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import Clip
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import write_image, write_json


def test_videos_of_one_name_in_two_tasks(tmp_path: Path) -> None:
    layouts.mvbench(tmp_path)
    whole, part, frames = read_mvbench(tmp_path, "test")
    assert (whole.group, whole.id, whole.correct) == ("action_antonym", "action_antonym/0", 1)
    assert whole.media == (tmp_path / "video" / "ssv2_video" / "7.mp4",)
    assert part.media == (Clip(tmp_path / "video" / "star" / "Charades_v1_480" / "7.mp4", 1.5, 3.0),)
    assert [path.name for path in frames.media] == [f"{n:05}.jpg" for n in range(4, 10)]  # seconds 1 to 3, of 3 frames
    assert frames.frames and not whole.frames and whole.block != part.block
    assert [each.group for each in read_mvbench(tmp_path, "action_sequence")] == ["action_sequence"]


def test_videos_elsewhere_are_found_by_name(tmp_path: Path) -> None:
    row = {"video": "9.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "action_count.json", [row])
    write_image(tmp_path / "somewhere" / "9.mp4")
    (question,) = read_mvbench(tmp_path, "test")
    assert question.media == (tmp_path / "somewhere" / "9.mp4",)


def test_the_twenty_tasks() -> None:
    assert len(DIRECTORIES) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "It sinks."}, r"action_antonym.json: \[0\]: `answer` is 'It sinks.', none of the choices"),
        ({"start": -1}, "`start` is -1; it must be a number of seconds"),
        ({"end": "x"}, "`end` is 'x'"),
        ({"candidates": "a"}, "`candidates` is 'a'; it must be a list of texts"),
    ],
)
def test_bad_entries(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = {"video": "7.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "json" / "action_antonym.json", [{**row, **change}])
    with pytest.raises(DataError, match=message):
        read_mvbench(tmp_path, "test")


def test_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no task 'val'"):
        read_mvbench(tmp_path, "val")
