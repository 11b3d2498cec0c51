"""Databases with random damage: read, or one line that names the file and the remedy."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from perception_encoder.errors import DataError, OutputError, PerceptionEncoderError
from perception_encoder.video_dataset.annotation.database import Database
from perception_encoder.video_dataset.annotation.label_studio import export_tasks
from perception_encoder.video_dataset.annotation.progress import count_progress, measure_agreement, read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.review import approve, next_review
from perception_encoder.video_dataset.annotation.work import Edit, next_task, skip, submit, undo, upcoming_clip

EDIT = Edit(caption="A boat.", rating=3, seconds=60, session="tab", sequence=1)


@pytest.fixture
def content(data: Path, tmp_path: Path) -> bytes:
    """A database with annotations, reviews, assignments and a team."""
    project = AnnotationProject(data, tmp_path / "whole.sqlite")
    project.update()
    project.set_double(1)
    project.set_team(["anna", "ben"])
    project.assign(["anna", "ben"])
    for person in ("anna", "ben"):
        submit(project, person, next_task(project, person, "tab").id, EDIT)
        skip(project, person, next_task(project, person, "tab").id, "dark", EDIT)
    approve(project, "ben", next_review(project, "ben", "tab").id, EDIT)
    project.close()
    return (tmp_path / "whole.sqlite").read_bytes()


def damage(content: bytes, chance: random.Random) -> bytes:
    """Flip bytes, mostly in the pages' headers and records, zero a part, or cut the end off."""
    changed, kind = bytearray(content), chance.randrange(4)
    at = chance.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed[at : at + 300] = bytes(len(content[at : at + 300]))
        return bytes(changed)
    used = [place for place, byte in enumerate(content) if byte]
    for _ in range(chance.choice((1, 4, 16))):
        changed[chance.choice(used)] = chance.randrange(256)
    return bytes(changed)


def use(data: Path, path: Path) -> None:
    """Read and change everything in a project."""
    project = AnnotationProject(data, path)
    try:
        project.update()
        count_progress(project)
        measure_agreement(project)
        list(read_refinements(project))
        export_tasks(project, path.with_suffix(".json"))
        project.team()
        for person in ("anna", "ben"):
            upcoming_clip(project, person)
            undo(project, person, "tab")
            if task := next_task(project, person, "tab"):
                project.video(task.clip.id)
                submit(project, person, task.id, EDIT)
            next_review(project, person, "tab")
        project.assign(["anna", "ben"])
        project.set_double(0.5)
    finally:
        project.close()


def test_damaged_databases(data: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.sqlite"
    refused = 0
    for seed in range(120):
        for leftover in tmp_path.glob("damaged.sqlite*"):
            leftover.unlink()
        path.write_bytes(damage(content, random.Random(seed)))
        try:
            use(data, path)
        except PerceptionEncoderError as error:
            assert "\n" not in str(error), str(error)
            refused += path.name in str(error) and "is damaged" in str(error)
    assert 40 < refused < 120


def test_damage_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE annotations SET seconds = 'long'")
    connection.close()
    remedy = "restore a copy, or save what is readable: sqlite3 FILE .recover"
    with pytest.raises(DataError, match=rf"a\.sqlite is damaged \(a value of annotations\.seconds\); {remedy}"):
        Database(path)


def test_a_project_that_another_process_writes(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.video_dataset.annotation.database._BUSY_SECONDS", 0.01)
    path = tmp_path / "a.sqlite"
    path.write_bytes(content)
    database, other = Database(path), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputError, match=r"a\.sqlite could not be written: database is locked"), database.transaction():
        pass
    other.execute("ROLLBACK")
    other.close()
    with database.transaction() as connection:
        connection.execute("INSERT INTO people VALUES ('eve', 'human')")
    database.close()
