"""The refined dataset: refined captions in the tars, the originals beside them, and no names of people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import OutputError
from perception_encoder.video_dataset.annotation.export import ExportChoice, ExportCounts, export_dataset
from perception_encoder.video_dataset.annotation.project import AnnotationProject, add_person
from perception_encoder.video_dataset.annotation.review import approve, next_review
from perception_encoder.video_dataset.annotation.work import Edit, add_finished
from tests.video_dataset.annotation.conftest import Annotate
from tests.video_dataset.clips import short_clip

T = TypeVar("T")


def test_refined_captions_are_written_back(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    annotate("anna secret", "A boot.", rating=2)
    task = next_review(project, "ben", "r")
    approve(project, "ben", task.id, Edit(caption="A boat.", session="r", sequence=1))
    with project.database.transaction() as connection:
        add_person(connection, "robot", "simulated")
        add_finished(connection, 0, 2, "robot", Edit(caption="A ship.", rating=3))
    assert export_dataset(project, tmp_path / "out") == ExportCounts(3, 2)
    first, second, third = read_videos_of(tmp_path / "out")
    assert (first.refined_caption, first.refined_by) == ("A boat.", "human")
    assert first.metadata["caption_rating"] == 2 and first.metadata["caption_reviewed"] is True
    assert first.model_caption == "A red boat number 0 drifts on a lake." and first.category == "Water Scenes"
    assert first.video.read("v0") == short_clip()
    assert (second.metadata["human_caption"], second.refined_caption, second.refined_by) == ("", "A ship.", "simulated")
    assert second.metadata["caption_reviewed"] is False and third.refined_caption == ""
    assert b"secret" not in (tmp_path / "out" / "train" / "000000.tar").read_bytes()
    assert export_dataset(project, tmp_path / "few", ExportChoice(refined_only=True)) == ExportCounts(2, 2)
    assert [record.key for record in read_videos_of(tmp_path / "few")] == ["v0", "v1"]


def test_two_at_once_do_not_write_one_directory(project: AnnotationProject, tmp_path: Path) -> None:
    def track(videos: Iterable[T], *_: object) -> Iterator[T]:
        with pytest.raises(OutputError, match=r"another process is writing .*out; wait for it, or choose another"):
            export_dataset(project, tmp_path / "out")
        yield from videos

    assert export_dataset(project, tmp_path / "out", track=track).videos == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train"]
    with pytest.raises(OutputError, match="exists and is not empty"):
        export_dataset(project, tmp_path / "out")


def test_a_selection_with_categories_and_scores(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    annotate("anna", "A boat.")
    fields = {"train/v0": {"category_name": "Animals", "interest_score": 4.5}, "train/v1": {"interest_score": 1.0}}
    choice = ExportChoice(selection=frozenset({"train/v0", "train/v1"}), fields=fields)
    assert export_dataset(project, tmp_path / "out", choice) == ExportCounts(2, 1)
    first, second = read_videos_of(tmp_path / "out")
    assert (first.category, first.refined_caption, first.metadata["interest_score"]) == ("Animals", "A boat.", 4.5)
    assert (second.category, second.metadata["interest_score"]) == ("Water Scenes", 1)


def test_an_exported_dataset_can_be_annotated_again(
    project: AnnotationProject, annotate: Annotate, tmp_path: Path
) -> None:
    annotate("anna", "A boat.")
    export_dataset(project, tmp_path / "out")
    again = AnnotationProject(tmp_path / "out")
    assert again.update() == 3
    with again.database.reading() as connection:
        captions = [row["caption"] for row in connection.execute("SELECT caption FROM clips ORDER BY id")]
    assert captions[0] == "A red boat number 0 drifts on a lake."
