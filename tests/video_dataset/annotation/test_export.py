"""Refined captions in a new dataset, and annotations to Label Studio and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import DataError, OutputError
from perception_encoder.video_dataset.annotation.export import (
    LABELING_CONFIG,
    ExportCounts,
    ImportCounts,
    export_dataset,
    export_tasks,
    import_tasks,
)
from perception_encoder.video_dataset.annotation.progress import count_progress, read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import (
    AnnotationConflictError,
    Edit,
    approve,
    next_review,
    next_task,
    skip,
)
from tests.video_dataset.annotation.conftest import Annotate
from tests.video_dataset.clips import short_clip

T = TypeVar("T")


def test_refined_captions_are_written_back(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    annotate("anna secret", "A boot.", rating=2)
    task = next_review(project, "ben", "r")
    approve(project, "ben", task.id, Edit(caption="A boat.", session="r", sequence=1))
    annotate("ben", "A ship.", rating=3)
    assert export_dataset(project, tmp_path / "out") == ExportCounts(3, 2)
    first, second, third = read_videos_of(tmp_path / "out")
    assert (first.refined_caption, first.refined_by) == ("A boat.", "human")
    assert first.metadata["caption_rating"] == 2 and first.metadata["caption_reviewed"] is True
    assert first.model_caption == "A red boat number 0 drifts on a lake." and first.category == "Water Scenes"
    assert first.video.read("v0") == short_clip()
    assert second.metadata["caption_reviewed"] is False and (third.refined_caption, third.refined_by) == ("", "")
    assert b"secret" not in (tmp_path / "out" / "train" / "000000.tar").read_bytes()
    again = AnnotationProject(tmp_path / "out")  # whose captions are still the model's
    assert again.update() == 3 and next_task(again, "anna", "tab").clip.original == first.model_caption
    assert export_dataset(project, tmp_path / "few", refined_only=True) == ExportCounts(2, 2)
    assert [record.key for record in read_videos_of(tmp_path / "few")] == ["v0", "v1"]


def test_two_at_once_do_not_write_one_directory(project: AnnotationProject, tmp_path: Path) -> None:
    def track(videos: Iterable[T], *_: object) -> Iterator[T]:
        with pytest.raises(OutputError, match="another process is writing"):
            export_dataset(project, tmp_path / "out")
        yield from videos

    assert export_dataset(project, tmp_path / "out", track=track).videos == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train"]
    with pytest.raises(OutputError, match="exists and is not empty"):
        export_dataset(project, tmp_path / "out")


def test_a_selection_with_categories_and_scores(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    annotate("anna", "A boat.")
    selection = {"train/v0": {"category_name": "Animals", "interest_score": 4.5}, "train/v1": {"interest_score": 1.0}}
    assert export_dataset(project, tmp_path / "out", selection=selection) == ExportCounts(2, 1)
    first, second = read_videos_of(tmp_path / "out")
    assert (first.category, first.refined_caption, first.metadata["interest_score"]) == ("Animals", "A boat.", 4.5)
    assert (second.category, second.metadata["interest_score"]) == ("Water Scenes", 1)


def of_label_studio(**changes: Any) -> list[dict[str, Any]]:
    """A task as Label Studio 1.x exports it."""
    result = [
        {
            "id": "uA1",
            "from_name": "caption",
            "to_name": "video",
            "type": "textarea",
            "origin": "manual",
            "value": {"text": ["A boat\non a lake."]},
        },
        {"id": "uA2", "from_name": "rating", "to_name": "video", "type": "rating", "value": {"rating": 4}},
    ]
    annotation = {
        "id": 1001,
        "completed_by": 10,
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-09T22:16:08.728353Z",
        "lead_time": 4.288,
        "task": 1,
        **changes,
    }
    data = {"video": "/data/local-files/?d=clips/v1.mp4", "key": "v1", "tar": "train/000000.tar"}
    return [{"id": 1, "project": 83, "data": data, "annotations": [annotation], "predictions": []}]


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_annotations_come_back(project: AnnotationProject, annotate: Annotate, data: Path, tmp_path: Path) -> None:
    annotate("anna", "A boot.", rating=4, seconds=30)
    skipped = next_task(project, "anna", "tab")
    skip(project, "anna", skipped.id, "dark", Edit(caption="half", session="tab", sequence=1))
    next_task(project, "anna", "tab")  # unfinished
    task = next_review(project, "ben", "r")
    approve(project, "ben", task.id, Edit(caption="A boat.", session="r", sequence=1))
    path = tmp_path / "labels.json"
    assert export_tasks(project, path, "http://files/") == 3
    first, second, third = json.loads(path.read_text())
    assert first["data"]["video"] == "http://files/v0.mp4" and first["data"]["tar"] == "train/000000.tar"
    assert first["predictions"][0]["result"][0]["value"]["text"] == ["A red boat number 0 drifts on a lake."]
    assert first["annotations"][0]["ground_truth"] and second["annotations"][0]["was_cancelled"]
    assert third["annotations"] == []
    other = AnnotationProject(data, tmp_path / "other.sqlite")
    other.update()
    assert import_tasks(other, path) == ImportCounts(2, 0)
    (refinement,) = read_refinements(other)
    assert (refinement.key, refinement.caption, refinement.rating) == ("v0", "A boat.", 4)
    (anna,) = count_progress(other).people
    assert (anna.name, anna.done, anna.skipped, anna.seconds) == ("anna", 1, 1, 30)
    assert import_tasks(other, path) == ImportCounts(0, 2)
    assert import_tasks(project, path) == ImportCounts(0, 2)  # approved and skipped as they are there


def through_label_studio(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks as Label Studio exports them again: their annotations are those of the user who imported them."""
    names = ("result", "was_cancelled", "ground_truth", "lead_time")
    for number, task in enumerate(tasks, 101):
        imported = [{name: item[name] for name in names} | {"import_id": item["id"]} for item in task["annotations"]]
        task["annotations"] = [{"id": 200 + n, "completed_by": 1, **item} for n, item in enumerate(imported)]
        task["id"] = number
    return tasks


def test_two_annotations_of_a_video_come_back_from_label_studio(
    project: AnnotationProject, annotate: Annotate, data: Path, tmp_path: Path
) -> None:
    project.set_double(1)
    annotate("anna", "A boat.", rating=4)
    annotate("ben", "A ship.", rating=5)
    export_tasks(project, tmp_path / "labels.json")
    tasks = through_label_studio(json.loads((tmp_path / "labels.json").read_text()))
    tasks[1]["annotations"] = of_label_studio(import_id=None, completed_by=1)[0]["annotations"]
    path = write(tmp_path / "project-1.json", tasks)
    assert import_tasks(project, path) == ImportCounts(1, 2)
    other = AnnotationProject(data, tmp_path / "other.sqlite")
    other.update()
    assert import_tasks(other, path) == ImportCounts(3, 0)
    assert [person.name for person in count_progress(other).people] == ["anna", "ben", "label-studio-1"]


def test_the_labeling_interface_fits_the_tasks(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    annotate("anna", "A boat.", rating=4)
    export_tasks(project, tmp_path / "labels.json")
    task = json.loads((tmp_path / "labels.json").read_text())[0]
    tags = {tag.get("name"): tag for tag in ElementTree.fromstring(LABELING_CONFIG)}
    assert tags["video"].tag == "Video"
    results = [*task["predictions"][0]["result"], *task["annotations"][0]["result"]]
    assert {result["from_name"] for result in results} == {"caption", "rating"} == tags.keys() - {"video"}
    for result in results:
        tag = tags[result["from_name"]]
        assert (tag.tag.lower(), tag.get("toName")) == (result["type"], result["to_name"])
    assert {tag.get("value", "$key")[1:] for tag in tags.values()} <= task["data"].keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's
def test_label_studio_reads_the_tasks(project: AnnotationProject, annotate: Annotate, tmp_path: Path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter")
    label_interface = pytest.importorskip("label_studio_sdk.label_interface")
    annotate("anna", "A boat.", rating=4)
    skipped = next_task(project, "anna", "tab")
    skip(project, "anna", skipped.id, "dark", Edit(caption="half", session="tab", sequence=1))
    export_tasks(project, tmp_path / "labels.json", "http://files/")
    interface = label_interface.LabelInterface(LABELING_CONFIG)
    interface.validate()
    for task in json.loads((tmp_path / "labels.json").read_text()):
        assert interface.validate_task({"data": task["data"]})
        assert all(map(interface.validate_annotation, task["annotations"]))
        assert [interface.validate_prediction(item, return_errors=True) for item in task["predictions"]] == [[]]
    convert = converter.Converter(LABELING_CONFIG, project_dir=None, download_resources=False)
    first, *rest = convert.iter_from_json_file(str(tmp_path / "labels.json"))
    assert first["output"]["caption"][0]["text"] == ["A boat."] and first["output"]["rating"][0]["rating"] == 4
    assert [item["output"] for item in rest] == [{}]  # one was skipped, one is not annotated yet


@pytest.mark.parametrize(("by", "name"), [(10, "label-studio-10"), ({"email": "anna@example.org"}, "anna@example.org")])
def test_a_file_of_label_studio(project: AnnotationProject, tmp_path: Path, by: object, name: str) -> None:
    tasks = of_label_studio(completed_by=by)
    assert import_tasks(project, write(tmp_path / "project-1.json", tasks)) == ImportCounts(1, 0)
    (refinement,) = read_refinements(project)
    assert (refinement.key, refinement.caption, refinement.rating) == ("v1", "A boat\non a lake.", 4)
    assert [person.name for person in count_progress(project).people] == [name]
    tasks[0]["annotations"][0]["result"][1]["value"]["rating"] = 1  # another result of the same person
    with pytest.raises(AnnotationConflictError, match="has already finished video 2"):
        import_tasks(project, write(tmp_path / "b.json", tasks))


STARS = [{"type": "textarea", "value": {"text": ["A boat."]}}, {"type": "rating", "value": {"rating": 7}}]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "must be a list of tasks"),
        ([3], "task 0 is not an object with `data`"),
        ([{"data": {"key": "v0", "tar": "train/000000.tar"}}], "`annotations` is missing or null"),
        (of_label_studio(result=[]), "has no text from a text area"),
        (of_label_studio(completed_by=None), "does not name its annotator"),
        (of_label_studio(result=STARS), "has the rating 7; it must be from 1 to 5"),
        ([{**of_label_studio()[0], "data": {"key": "nowhere"}}], "this dataset has no video 'nowhere' in 'None'"),
    ],
)
def test_files_of_another_form_change_nothing(
    project: AnnotationProject, tmp_path: Path, tasks: object, message: str
) -> None:
    both = [*of_label_studio(), *tasks] if isinstance(tasks, list) else tasks
    with pytest.raises(DataError, match=message.replace("task 0", "task 1")):
        import_tasks(project, write(tmp_path / "a.json", both))
    assert list(read_refinements(project)) == []
