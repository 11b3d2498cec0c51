"""The rules of one person's work: what is offered, saved, submitted, skipped and undone, and by which tab."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.review import next_review
from perception_encoder.video_dataset.annotation.work import (
    HOLD_SECONDS,
    AnnotationConflictError,
    AnnotationTask,
    Edit,
    next_task,
    save,
    skip,
    submit,
    undo,
    upcoming_clip,
)
from tests.video_dataset.annotation.conftest import Annotate, Clock
from tests.video_dataset.clips import fields, small_dataset, write_dataset


def edit(caption: str, sequence: int = 1, session: str = "tab", rating: int | None = 3, seconds: float = 0) -> Edit:
    return Edit(caption=caption, rating=rating, session=session, sequence=sequence, seconds=seconds)


def test_people_get_different_videos_until_there_are_none(project: AnnotationProject, annotate: Annotate) -> None:
    anna, ben = next_task(project, "anna", "a"), next_task(project, "ben", "b")
    assert (anna.clip.key, ben.clip.key) == ("v0", "v1")
    assert next_task(project, "anna", "a").id == anna.id  # the unfinished one first
    annotate("anna", "One.")
    assert upcoming_clip(project, "anna") == 3
    assert annotate("anna", "Two.").clip.key == "v2"
    assert next_task(project, "anna", "a") is None and upcoming_clip(project, "anna") is None
    assert next_task(project, "ben", "b").clip.key == "v1"


def test_a_double_annotation_is_by_two_people(project: AnnotationProject, annotate: Annotate) -> None:
    project.set_double(1)
    assert annotate("anna", "A boat.").clip.key == "v0"
    second = next_task(project, "ben", "b")
    assert second.clip.key == "v0" and second.caption == second.clip.original  # not the first one's words
    assert next_task(project, "anna", "a").clip.key == "v1"
    assert next_task(project, "cleo", "c").clip.key == "v1"


def test_work_is_saved_and_opened_again(data: Path, project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    save(project, "anna", task.id, edit("A red boat\non a lake", seconds=12.5))
    again = AnnotationProject(data)
    reopened = next_task(again, "anna", "another tab")
    assert (reopened.id, reopened.caption, reopened.rating, reopened.seconds) == (
        task.id,
        "A red boat\non a lake",
        3,
        12.5,
    )
    assert reopened.clip.original == "A red boat number 0 drifts on a lake."


def test_a_save_that_arrives_late_or_twice_changes_nothing(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    save(project, "anna", task.id, edit("second", 2))
    save(project, "anna", task.id, edit("first", 1))
    save(project, "anna", task.id, edit("second again", 2))
    assert next_task(project, "anna", "tab").caption == "second"


def test_only_the_tab_that_opened_it_last_saves(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "old tab")
    next_task(project, "anna", "new tab")
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        save(project, "anna", task.id, edit("x", session="old tab"))
    save(project, "anna", task.id, edit("y", session="new tab"))
    submit(project, "anna", task.id, edit("z", 2, session="new tab"))
    with pytest.raises(AnnotationConflictError, match="already finished"):
        save(project, "anna", task.id, edit("x", 3, session="old tab"))


def test_a_submission_is_tidied_and_may_be_sent_twice(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    for sequence in (5, 6):
        submit(project, "anna", task.id, edit("\n A boat. \nIt drifts.\t\n\n", sequence))
    with pytest.raises(AnnotationConflictError, match="already finished"):
        submit(project, "anna", task.id, edit("something else", 7))
    with project.database.reading() as connection:
        row = connection.execute("SELECT state, caption FROM annotations").fetchone()
        (decisions,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
    assert tuple(row) == ("done", "A boat.\nIt drifts.") and decisions == 1


@pytest.mark.parametrize(
    ("caption", "rating", "message"),
    [(" \n", 3, "the caption is empty"), ("A boat.", None, "has no rating")],
)
def test_what_cannot_be_submitted(project: AnnotationProject, caption: str, rating: int | None, message: str) -> None:
    task = next_task(project, "anna", "tab")
    with pytest.raises(ConfigError, match=message):
        submit(project, "anna", task.id, edit(caption, rating=rating))
    assert next_task(project, "anna", "tab").id == task.id


@pytest.mark.parametrize(("values", "message"), [({"rating": 6}, "1 to 5"), ({"caption": "x" * 20_001}, "20,000")])
def test_edits_have_limits(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Edit(**{"caption": "", **values})


def test_a_skipped_video_goes_to_one_more_person(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    with pytest.raises(ConfigError, match="the reason has 0 characters"):
        skip(project, "anna", task.id, " ", edit("half"))
    for _ in range(2):
        skip(project, "anna", task.id, "too dark", edit("half"))
    assert next_task(project, "anna", "tab").clip.key == "v1"
    other = next_task(project, "ben", "tab")
    assert other.clip.key == "v0"
    skip(project, "ben", other.id, "black", edit(""))
    assert next_task(project, "cleo", "tab").clip.key == "v2"


@pytest.mark.parametrize("change", ["save", "submit", "skip"])
def test_what_is_finished_or_open_in_another_tab_is_not_changed(
    project: AnnotationProject, annotate: Annotate, change: str
) -> None:
    def attempt(task: AnnotationTask, session: str) -> None:
        state = edit("Another.", sequence=9, session=session)
        if change == "skip":
            skip(project, "anna", task.id, "dark", state)
        else:
            {"save": save, "submit": submit}[change](project, "anna", task.id, state)

    done, task = annotate("anna", "One."), next_task(project, "anna", "tab")
    with pytest.raises(AnnotationConflictError, match="is already finished"):
        attempt(done, "tab")
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        attempt(task, "other")
    assert next_task(project, "anna", "tab").caption == task.clip.original
    attempt(next_task(project, "anna", "other"), "other")


def test_undo_goes_back_step_by_step(project: AnnotationProject, annotate: Annotate) -> None:
    first = annotate("anna", "One.", rating=5)
    second = next_task(project, "anna", "tab")
    skip(project, "anna", second.id, "dark", edit("half a caption", rating=2))
    third = next_task(project, "anna", "tab")
    assert third.clip.key == "v2"
    back = undo(project, "anna", "tab")
    assert (back.id, back.caption, back.rating) == (second.id, "half a caption", 2)
    assert next_task(project, "anna", "tab").id == second.id
    back = undo(project, "anna", "tab")
    assert (back.id, back.caption, back.rating) == (first.id, "One.", 5)
    assert undo(project, "anna", "tab") is None and undo(project, "ben", "tab") is None
    submit(project, "anna", back.id, edit("Uno."))
    assert next_task(project, "anna", "tab").id == second.id


def test_what_is_being_reviewed_cannot_be_undone(project: AnnotationProject, annotate: Annotate) -> None:
    annotate("anna", "One.")
    assert next_review(project, "ben", "r") is not None
    with pytest.raises(AnnotationConflictError, match="a reviewer has opened this video"):
        undo(project, "anna", "tab")


def test_an_abandoned_video_is_offered_after_a_day(project: AnnotationProject, clock: Clock) -> None:
    task = next_task(project, "anna", "tab")
    clock.time += HOLD_SECONDS - 1
    save(project, "anna", task.id, edit("still at it"))
    clock.time += 2
    assert next_task(project, "ben", "tab").clip.key == "v1"
    clock.time += HOLD_SECONDS
    assert next_task(project, "cleo", "tab").clip.key == "v0"
    submit(project, "anna", task.id, edit("late, but welcome", 2))


def test_others_cannot_write(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    with pytest.raises(AnnotationConflictError, match="annotation 1 belongs to anna, not to ben"):
        save(project, "ben", task.id, edit("x"))
    with pytest.raises(InputError, match="annotation 99: does not exist"):
        submit(project, "anna", 99, edit("x"))


def test_a_video_without_a_model_caption_needs_no_rating(tmp_path: Path) -> None:
    project = AnnotationProject(write_dataset(tmp_path, {"extended": [[("a", fields(None))]]}))
    project.update()
    task = next_task(project, "anna", "tab")
    assert task.caption == task.clip.original == ""
    submit(project, "anna", task.id, edit("A boat.", rating=None))


def test_people_at_once_never_get_the_same_video(tmp_path: Path) -> None:
    data = small_dataset(tmp_path, 40)
    AnnotationProject(data).update()
    projects = [AnnotationProject(data) for _ in range(2)]  # two servers, say
    for project in projects:
        project.set_double(0)
    keys: list[str] = []

    def work(person: str, project: AnnotationProject) -> None:
        while task := next_task(project, person, "tab"):
            keys.append(task.clip.key)
            submit(project, person, task.id, edit("done"))

    threads = [threading.Thread(target=work, args=(f"p{n}", projects[n % 2])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == len(set(keys)) == 40
