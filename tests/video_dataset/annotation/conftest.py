"""A project of three videos whose clock stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import AnnotationTask, Edit, next_task, submit
from tests.video_dataset.clips import fields, short_clip, small_dataset


class Clock:
    """Seconds since some moment."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset(tmp_path / "data")


@pytest.fixture(scope="session")
def many_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of ten thousand videos in ten tars."""
    directory = tmp_path_factory.mktemp("many")
    for part in range(10):
        members = []
        for key in (f"{part}-{number}" for number in range(1000)):
            members += [(f"{key}.mp4", short_clip()), (f"{key}.json", json_bytes(fields(f"caption {key} " * 10)))]
        write_members(directory / "train" / f"{part:06}.tar", members)
    return directory


@pytest.fixture
def project(data: Path, clock: Clock) -> Iterator[AnnotationProject]:
    """Each video needs one annotation."""
    project = AnnotationProject(data, now=clock)
    project.update()
    project.set_double(0)
    yield project
    project.close()


Annotate = Callable[..., AnnotationTask]


@pytest.fixture
def annotate(project: AnnotationProject) -> Annotate:
    """`annotate("anna", "A boat.", rating=4)` finishes the person's next video."""

    def annotate(person: str, caption: str, rating: int | None = 3, seconds: float = 60) -> AnnotationTask:
        task = next_task(project, person, "tab")
        assert task is not None
        edit = Edit(caption=caption, rating=rating, seconds=seconds, session="tab", sequence=1)
        submit(project, person, task.id, edit)
        return task

    return annotate
