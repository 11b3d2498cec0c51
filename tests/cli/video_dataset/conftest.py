"""A dataset of three videos, one of which is annotated."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import Edit, next_task, submit
from tests.video_dataset.clips import small_dataset


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    data = small_dataset(tmp_path / "clips")
    project = AnnotationProject(data)
    project.update()
    project.set_double(0)
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=3, seconds=60, session="tab", sequence=1))
    project.close()
    return data
