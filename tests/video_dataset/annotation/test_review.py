"""Review: by someone else, approved, corrected or returned, and undone."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.video_dataset.annotation.progress import read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.review import (
    ReviewTask,
    approve,
    next_review,
    return_to_annotator,
    save_review,
    undo_review,
)
from perception_encoder.video_dataset.annotation.work import (
    HOLD_SECONDS,
    AnnotationConflictError,
    Edit,
    next_task,
    submit,
)
from tests.video_dataset.annotation.conftest import Annotate, Clock


def edit(caption: str, sequence: int = 1, session: str = "r") -> Edit:
    return Edit(caption=caption, session=session, sequence=sequence)


def review(project: AnnotationProject, person: str = "ben") -> ReviewTask:
    task = next_review(project, person, "r")
    assert task is not None
    return task


def refined(project: AnnotationProject) -> list[tuple[str, str, bool]]:
    return [(refinement.key, refinement.caption, refinement.reviewed) for refinement in read_refinements(project)]


def test_nobody_reviews_their_own(project: AnnotationProject, annotate: Annotate) -> None:
    assert next_review(project, "ben", "r") is None
    annotate("anna", "A boat.", rating=4)
    assert next_review(project, "anna", "r") is None
    task = review(project)
    assert (task.annotator, task.annotated, task.caption, task.rating) == ("anna", "A boat.", "A boat.", 4)
    assert task.clip.original == "A red boat number 0 drifts on a lake."
    assert next_review(project, "cleo", "r") is None  # ben has it


def test_a_correction_is_saved_and_approved(project: AnnotationProject, annotate: Annotate) -> None:
    annotate("anna", "A boot.")
    task = review(project)
    save_review(project, "ben", task.id, edit("A boat", 2))
    save_review(project, "ben", task.id, edit("late", 1))
    assert review(project).caption == "A boat" and refined(project) == [("v0", "A boot.", False)]
    for _ in range(2):
        approve(project, "ben", task.id, edit(" A boat. \n", 3))
    assert refined(project) == [("v0", "A boat.", True)]
    assert next_review(project, "ben", "r") is None
    with pytest.raises(AnnotationConflictError, match="already finished"):
        save_review(project, "ben", task.id, edit("x", 4))


def test_a_returned_video_comes_first_and_is_reviewed_again(project: AnnotationProject, annotate: Annotate) -> None:
    task = annotate("anna", "A boot.")
    next_task(project, "anna", "tab")  # v1 is open
    review(project)
    with pytest.raises(ConfigError, match="the note has 0 characters"):
        return_to_annotator(project, "ben", task.id, "", "r")
    for _ in range(2):
        return_to_annotator(project, "ben", task.id, "a boat, not a boot", "r")
    assert refined(project) == [] and next_review(project, "ben", "r") is None
    again = next_task(project, "anna", "tab")
    assert (again.id, again.note, again.caption) == (task.id, "a boat, not a boot", "A boot.")
    submit(project, "anna", again.id, Edit(caption="A boat.", rating=3, session="tab", sequence=9))
    assert review(project).caption == "A boat."


def test_undo_of_an_approval_and_of_a_return(project: AnnotationProject, annotate: Annotate) -> None:
    annotate("anna", "One.")
    annotate("anna", "Two.")
    first = review(project)
    approve(project, "ben", first.id, edit("Uno."))
    second = review(project)
    return_to_annotator(project, "ben", second.id, "why?", "r")
    assert undo_review(project, "ben", "r").caption == "Two."
    assert refined(project) == [("v0", "Uno.", True), ("v1", "Two.", False)]
    assert undo_review(project, "ben", "r").caption == "Uno."
    assert refined(project)[0] == ("v0", "One.", False)
    assert undo_review(project, "ben", "r") is None


def test_a_return_that_the_annotator_has_opened_stays(project: AnnotationProject, annotate: Annotate) -> None:
    annotate("anna", "One.")
    return_to_annotator(project, "ben", review(project).id, "why?", "r")
    next_task(project, "anna", "tab")
    with pytest.raises(AnnotationConflictError, match="has already opened this video"):
        undo_review(project, "ben", "r")


def test_an_abandoned_review_is_taken_over(project: AnnotationProject, annotate: Annotate, clock: Clock) -> None:
    annotate("anna", "One.")
    task = review(project)
    save_review(project, "ben", task.id, edit("Uno"))
    clock.time += HOLD_SECONDS + 1
    assert review(project, "cleo").caption == "Uno"
    with pytest.raises(AnnotationConflictError, match="review of annotation 1 belongs to cleo, not to ben"):
        approve(project, "ben", task.id, edit("Uno.", 2))


def test_what_cannot_be_approved(project: AnnotationProject, annotate: Annotate) -> None:
    task = annotate("anna", "One.")
    with pytest.raises(InputError, match="does not exist"):
        approve(project, "ben", task.id, edit("One."))
    review(project)
    with pytest.raises(ConfigError, match="the caption is empty"):
        approve(project, "ben", task.id, edit(" "))
    next_review(project, "ben", "another tab")
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        approve(project, "ben", task.id, edit("One.", 2))
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        return_to_annotator(project, "ben", task.id, "no", "r")
