"""A project's videos, people and assignments, and its database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError, InputError, OutputError
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.video_dataset.annotation.progress import read_refinements
from perception_encoder.video_dataset.annotation.project import (
    FILE_NAME,
    AnnotationProject,
    Database,
    check_person_name,
)
from perception_encoder.video_dataset.annotation.work import Edit, next_review, next_task, submit
from tests.damage import plant_trigger
from tests.video_dataset.clips import fields, short_clip, small_dataset, write_dataset


def test_videos_are_read_once_and_served_from_their_tars(data: Path, project: AnnotationProject) -> None:
    assert project.update() == 3 and (data / FILE_NAME).exists()
    member, extension = project.video(2)
    assert member.read("v") == short_clip() and extension == "mp4" and member.tar == data / "train" / "000000.tar"
    task = next_task(project, "anna", "tab")
    assert (task.clip.key, task.clip.split, task.clip.category) == ("v0", "train", "Water Scenes")
    assert task.clip.rate == 10.0
    assert task.clip.original == task.caption == "A red boat number 0 drifts on a lake."


def test_a_changed_tar_is_read_again_and_work_stays(data: Path, project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    write_dataset(data, {"train": [[("new", fields("n")), ("v0", fields("another model's caption"))]]})
    assert project.update() == 2
    offered = next_task(project, "ben", "tab")
    assert offered.clip.key == "new"  # v0 is annotated; v1 and v2 have gone
    with pytest.raises(InputError, match="its tar was removed"):
        project.video(2)
    with project.reading() as connection:
        rows = connection.execute("SELECT clips.caption, key FROM clips JOIN annotations ON clip = clips.id").fetchall()
    assert ("A red boat number 0 drifts on a lake.", "v0") in [tuple(row) for row in rows]  # the original stays
    assert project.video(1)[0].read("v") == short_clip()


def test_annotations_follow_videos_that_move_to_other_tars(data: Path, project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    (data / "train" / "000000.tar").unlink()
    videos = [(f"v{n}", fields(f"A red boat number {n} drifts on a lake.")) for n in range(3)]
    write_dataset(data, {"train": [[], [videos[1]], [videos[2], videos[0]]]})  # as tars of other sizes have them
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


def test_a_review_of_a_video_that_has_gone_is_not_offered(data: Path, project: AnnotationProject) -> None:
    """The reviewer got the missing video again and again."""
    for name in ("v0", "v1"):
        task = next_task(project, "anna", "tab")
        assert task.clip.key == name
        submit(project, "anna", task.id, Edit(caption="A boat.", rating=2, session="tab", sequence=1))
    assert next_review(project, "ben", "tab").clip.key == "v0"
    write_dataset(data, {"train": [[("v1", fields("A red boat number 1 drifts on a lake."))]]})
    project.update()
    assert next_review(project, "ben", "tab").clip.key == "v1"


def test_only_listed_tars_are_read(tmp_path: Path, data: Path, project: AnnotationProject) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    with project.transaction() as connection:
        connection.execute(
            "INSERT INTO tars VALUES (7, '../secret', 'train', 8, 0), (8, ?, 'train', 8, 0)", (f"{secret}",)
        )
        connection.execute("INSERT INTO clips VALUES (70, 7, 's', 'mp4', 0, 8, '', '', NULL, 1)")
        connection.execute("INSERT INTO clips VALUES (80, 8, 's', 'mp4', 0, 8, '', '', NULL, 1)")
    for clip in (70, 80, 99, -1):
        with pytest.raises(InputError, match="does not exist"):
            project.video(clip)


def test_two_videos_of_one_key_are_an_error(tmp_path: Path) -> None:
    samples = [("a.mp4", short_clip()), ("a.json", json_bytes({}))] * 2
    write_members(tmp_path / "train" / "0.tar", samples)
    project = AnnotationProject(tmp_path)
    with pytest.raises(DataError, match="two videos have the same key"):
        project.update()


def test_the_double_share_grows_and_is_remembered(tmp_path: Path) -> None:
    def doubles(project: AnnotationProject) -> set[str]:
        with project.reading() as connection:
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


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "a\nb", "a\0"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 40 printable characters"):
        check_person_name(name)


def people(database: Database) -> list[str]:
    with database.reading() as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM people ORDER BY name")]


def add(database: Database, name: str) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES (?)", (name,))


def test_it_is_made_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.sqlite"
    database = Database(path)
    add(database, "anna")
    with database.reading() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert people(Database(path)) == ["anna"]  # while the first connection is open
    database.close()
    assert people(Database(path)) == ["anna"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(DataError, match="is not an annotation project"):
        Database(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(DataError, match="not an annotation project of version 1"):
        Database(tmp_path / "other")
    with pytest.raises(OutputError, match="could not be written"):
        Database(tmp_path / "text" / "a.sqlite")


def test_damage_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as connection:  # a value that the table's types forbid
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ') STRICT', ')') WHERE name = 'tars'")
        connection.commit()
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute("INSERT INTO tars VALUES (1, 'a.tar', 'test', 'long', 0)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = sql || ' STRICT' WHERE name = 'tars'")
    connection.close()
    remedy = "restore a copy, or save what is readable: sqlite3 FILE .recover"
    with pytest.raises(DataError, match=rf"a\.sqlite is damaged \(non-INTEGER value in tars\.size\); {remedy}"):
        Database(path)


@pytest.mark.security
@pytest.mark.parametrize("name", ["decisions_of_person", "other"])
def test_a_project_with_a_trigger_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    Database(path).close()
    plant_trigger(path, name, "people", "AFTER INSERT ON people BEGIN DELETE FROM people; END")
    with pytest.raises(DataError, match="a definition of a table"):
        Database(path)


def test_a_project_that_was_recovered_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    Database(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE lost_and_found (rootpgno INTEGER, pgno INTEGER)")
    add(database := Database(path), "anna")
    assert people(database) == ["anna"]


def test_a_project_that_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.video_dataset.annotation.project.BUSY_SECONDS", 0.01)
    path = tmp_path / "a.sqlite"
    database, other = Database(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(OutputError, match=r"a\.sqlite could not be written"),
        database.transaction(),
    ):
        pass
    other.execute("ROLLBACK")
    other.close()
    with database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES ('eve')")
    database.close()
