"""A project knows its videos, its people, and who gets which video; it reads nothing outside the dataset."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.annotation.progress import read_refinements
from perception_encoder.video_dataset.annotation.project import FILE_NAME, AnnotationProject, add_person, check_name
from perception_encoder.video_dataset.annotation.work import Edit, next_task, submit
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset


def test_videos_are_read_once_and_served_from_their_tars(data: Path, project: AnnotationProject) -> None:
    assert project.update() == 3 and (data / FILE_NAME).exists()
    member, extension = project.video(2)
    assert member.read("v") == short_clip() and extension == "mp4" and member.tar == data / "train" / "000000.tar"
    task = next_task(project, "anna", "tab")
    assert (task.clip.key, task.clip.split, task.clip.category) == ("v0", "train", "Water Scenes")
    assert (task.clip.duration, task.clip.rate) == (2.0, 10.0)
    assert task.clip.original == task.caption == "A red boat number 0 drifts on a lake."


def test_a_changed_tar_is_read_again_and_work_stays(data: Path, project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    write_dataset(data, {"train": [[("new", fields("n")), ("v0", fields("another model's caption"))]]})
    assert project.update() == 2
    offered = next_task(project, "ben", "tab")
    assert offered.clip.key == "new"  # v0 is annotated; v1 and v2 have gone
    with pytest.raises(InputError, match="its tar has gone"):
        project.video(2)
    with project.database.reading() as connection:
        rows = connection.execute("SELECT clips.caption, key FROM clips JOIN annotations ON clip = clips.id").fetchall()
    assert ("A red boat number 0 drifts on a lake.", "v0") in [tuple(row) for row in rows]  # the original stays
    assert project.video(1)[0].read("v") == short_clip()


def test_annotations_follow_videos_that_move_to_other_tars(data: Path, project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    (data / "train" / "000000.tar").unlink()
    videos = [(f"v{n}", fields(f"A red boat number {n} drifts on a lake.")) for n in range(3)]
    write_dataset(data, {"train": [[], [videos[1]], [videos[2], videos[0]]]})  # as another --shard-size has it
    again = AnnotationProject(data)
    assert again.update() == 3 and next_task(again, "ben", "tab").clip.key == "v1"
    (refinement,) = read_refinements(again)
    assert (refinement.tar, refinement.key, refinement.caption) == ("train/000002.tar", "v0", "A boat.")


def test_a_tar_that_has_gone_is_not_offered(data: Path, project: AnnotationProject) -> None:
    write_dataset(data, {"test": [[("t", fields("t"))]]})
    (data / "train" / "000000.tar").rename(data / "other.zip")
    again = AnnotationProject(data)
    assert again.update() == 1 and next_task(again, "anna", "tab").clip.key == "t"
    (data / "other.zip").rename(data / "train" / "000000.tar")
    again = AnnotationProject(data)
    assert again.update() == 4 and again.video(1)[0].read("v") == short_clip()


def test_only_listed_tars_are_read(tmp_path: Path, data: Path, project: AnnotationProject) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    with project.database.transaction() as connection:
        connection.execute(
            "INSERT INTO tars VALUES (7, '../secret', 'train', 8, 0), (8, ?, 'train', 8, 0)", (f"{secret}",)
        )
        connection.execute("INSERT INTO clips VALUES (70, 7, 's', 'mp4', 0, 8, '', '', NULL, NULL, 1)")
        connection.execute("INSERT INTO clips VALUES (80, 8, 's', 'mp4', 0, 8, '', '', NULL, NULL, 1)")
    for clip in (70, 80, 99, -1):
        with pytest.raises(InputError, match="does not exist"):
            project.video(clip)


def test_two_videos_of_one_key_are_an_error(tmp_path: Path) -> None:
    samples = [("a.mp4", short_clip()), ("a.json", json_bytes({}))] * 2
    write_members(tmp_path / "train" / "0.tar", samples)
    project = AnnotationProject(tmp_path)
    with pytest.raises(DataError, match="two videos have one key"):
        project.update()


def test_one_tar_is_a_dataset(data: Path) -> None:
    project = AnnotationProject(data / "train" / "000000.tar", data / "own.sqlite")
    assert project.update() == 3 and project.video(1)[0].read("v") == short_clip() and (data / "own.sqlite").exists()


def test_the_double_share_grows_and_is_remembered(tmp_path: Path) -> None:
    def doubles(project: AnnotationProject) -> set[str]:
        with project.database.reading() as connection:
            return {row["key"] for row in connection.execute("SELECT key FROM clips WHERE needed = 2")}

    project = AnnotationProject(small_dataset(tmp_path, 60))
    project.update()
    default = doubles(project)
    assert 1 <= len(default) <= 15  # a tenth
    project.set_double(0.5)
    half = doubles(project)
    assert default < half and 20 <= len(half) <= 40
    assert doubles(AnnotationProject(tmp_path)) == half
    with pytest.raises(ConfigError, match="it must be from 0 to 1"):
        project.set_double(1.5)


def test_videos_are_dealt_evenly(tmp_path: Path) -> None:
    project = AnnotationProject(small_dataset(tmp_path, 10))
    project.update()
    project.set_double(0)
    assert project.assign(["anna", "ben", "cleo"]) == {"anna": 4, "ben": 3, "cleo": 3}
    project.set_double(1)
    assert project.assign(["anna", "ben"]) == {"anna": 10, "ben": 10}
    assert [next_task(project, name, "tab").clip.key for name in ("anna", "ben")] == ["v0", "v0"]
    with pytest.raises(ConfigError, match="1 people; double annotations need at least two"):
        project.assign(["anna", "anna"])


def test_an_assigned_video_is_for_that_person_alone(project: AnnotationProject) -> None:
    project.assign(["ben"])
    assert next_task(project, "anna", "tab") is None
    assert next_task(project, "ben", "tab").clip.key == "v0"


def test_a_team_keeps_others_out(project: AnnotationProject) -> None:
    project.set_team(["anna", " ben "])
    assert project.team() == ["anna", "ben"]
    with pytest.raises(ConfigError, match="'cleo' is not in the team: anna, ben"):
        next_task(project, "cleo", "tab")
    assert next_task(project, "ben", "tab") is not None
    project.set_team([])
    assert next_task(project, "cleo", "tab") is not None
    with pytest.raises(ConfigError, match="a name is twice in it"):
        project.set_team(["anna", "anna "])


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "a\nb", "a\0"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 40 printable characters"):
        check_name(name)


def test_a_person_cannot_take_the_name_of_a_simulated_annotator(project: AnnotationProject) -> None:
    with project.database.transaction() as connection:
        add_person(connection, "robot", "simulated")
    with pytest.raises(ConfigError, match="'robot' is of a simulated annotator"):
        next_task(project, "robot", "tab")


def test_ten_thousand_videos_open_in_under_a_second(many_videos: Path, tmp_path: Path) -> None:
    assert AnnotationProject(many_videos, tmp_path / "a.sqlite").update() == 10_000
    start = time.process_time()  # this process's own time: the machine may be busy
    project = AnnotationProject(many_videos, tmp_path / "a.sqlite")
    assert project.update() == 10_000 and next_task(project, "anna", "tab") is not None
    assert time.process_time() - start < 0.1
