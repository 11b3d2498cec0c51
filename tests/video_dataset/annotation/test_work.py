"""What is offered, saved, submitted, skipped, reviewed and undone, by whom and by which tab, and its counts."""

from __future__ import annotations

import threading
from pathlib import Path
from statistics import fmean

import pytest

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.video_dataset.annotation.progress import (
    count_progress,
    interval_alpha,
    measure_agreement,
    read_refinements,
    word_similarity,
)
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import (
    HOLD_SECONDS,
    AnnotationConflictError,
    AnnotationTask,
    Edit,
    approve,
    next_review,
    next_task,
    return_to_annotator,
    save,
    skip,
    submit,
    undo,
    undo_review,
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
    assert annotate("anna", "Two.").clip.key == "v2"
    assert next_task(project, "anna", "a") is None
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


def test_a_submission_is_tidied_and_may_be_sent_twice(project: AnnotationProject) -> None:
    task = next_task(project, "anna", "tab")
    for sequence in (5, 6):
        submit(project, "anna", task.id, edit("\n A boat. \nIt drifts.\t\n\n", sequence))
    with pytest.raises(AnnotationConflictError, match="already finished"):
        submit(project, "anna", task.id, edit("something else", 7))
    with project.reading() as connection:
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
    with pytest.raises(AnnotationConflictError, match="annotation 1 belongs to anna"):
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


# ---- review by a second person


def correction(caption: str, sequence: int = 1) -> Edit:
    return Edit(caption=caption, session="r", sequence=sequence)


def review(project: AnnotationProject, person: str = "ben") -> AnnotationTask:
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
    save(project, "ben", task.id, correction("A boat", 2), "reviews")
    save(project, "ben", task.id, correction("late", 1), "reviews")
    assert review(project).caption == "A boat" and refined(project) == [("v0", "A boot.", False)]
    for _ in range(2):
        approve(project, "ben", task.id, correction(" A boat. \n", 3))
    assert refined(project) == [("v0", "A boat.", True)]
    assert next_review(project, "ben", "r") is None
    with pytest.raises(AnnotationConflictError, match="already finished"):
        save(project, "ben", task.id, correction("x", 4), "reviews")


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
    approve(project, "ben", first.id, correction("Uno."))
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
    save(project, "ben", task.id, correction("Uno"), "reviews")
    clock.time += HOLD_SECONDS + 1
    assert review(project, "cleo").caption == "Uno"
    with pytest.raises(AnnotationConflictError, match="annotation 1 belongs to cleo"):
        approve(project, "ben", task.id, correction("Uno.", 2))


def test_what_cannot_be_approved(project: AnnotationProject, annotate: Annotate) -> None:
    task = annotate("anna", "One.")
    with pytest.raises(InputError, match="does not exist"):
        approve(project, "ben", task.id, correction("One."))
    review(project)
    with pytest.raises(ConfigError, match="the caption is empty"):
        approve(project, "ben", task.id, correction(" "))
    next_review(project, "ben", "another tab")
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        approve(project, "ben", task.id, correction("One.", 2))
    with pytest.raises(AnnotationConflictError, match="opened in another tab"):
        return_to_annotator(project, "ben", task.id, "no", "r")


def test_counts_and_pace(project: AnnotationProject, annotate: Annotate) -> None:
    assert count_progress(project).hours_left is None
    annotate("anna", "One.", seconds=90)
    annotate("anna", "Two.", seconds=30)
    skipped = next_task(project, "ben", "tab")
    skip(project, "ben", skipped.id, "dark", Edit(caption="", session="tab", sequence=1))
    task = next_review(project, "ben", "r")
    approve(project, "ben", task.id, Edit(caption="One.", session="r", sequence=1))
    progress = count_progress(project)
    assert (progress.videos, progress.done, progress.begun, progress.skipped, progress.reviewed) == (3, 2, 0, 1, 1)
    anna, ben = progress.people
    assert (anna.name, anna.done, anna.skipped, anna.reviewed, anna.seconds) == ("anna", 2, 0, 0, 60)
    assert (ben.done, ben.skipped, ben.reviewed, ben.seconds) == (0, 1, 1, None)
    assert progress.hours_left == 0
    undo(project, "ben", "tab")
    progress = count_progress(project)
    assert (progress.begun, progress.skipped) == (1, 0)
    assert progress.hours_left == progress.to_dict()["hours_left"] == pytest.approx(60 / 3600)


def test_a_double_annotation_is_done_when_both_are(project: AnnotationProject, annotate: Annotate) -> None:
    project.set_double(1)
    annotate("anna", "One.")
    assert (count_progress(project).done, count_progress(project).begun) == (0, 1)
    annotate("ben", "Uno.")
    assert (count_progress(project).done, count_progress(project).begun) == (1, 0)


def test_agreement_of_double_annotations(project: AnnotationProject, annotate: Annotate) -> None:
    project.set_double(1)
    nothing = measure_agreement(project)
    assert nothing.videos == 0 and nothing.similarity is nothing.ratings is None
    annotate("anna", "A red boat drifts on a lake.", rating=4)
    annotate("ben", "A boat drifts on a lake.", rating=2)
    annotate("anna", "A red boat number 1 drifts on a lake.", rating=5)
    annotate("ben", "A red boat number 1 drifts on a lake.", rating=5)
    annotate("anna", "alone")
    agreement = measure_agreement(project)
    assert agreement.videos == 2
    assert agreement.similarity == pytest.approx((12 / 13 + 1) / 2)
    assert agreement.ratings == pytest.approx(interval_alpha([(4, 2), (5, 5)]))


def test_alpha_and_similarity() -> None:
    assert word_similarity("", "") == word_similarity("a b", "a b") == 1 and word_similarity("a b", "c d") == 0
    assert interval_alpha([(3, 3)]) is None and interval_alpha([(1, 1), (5, 5)]) == 1
    pairs = [(1, 2), (3, 3), (5, 4), (2, 2)]  # by the definition: all pairs of values, without their own pair
    values = [value for pair in pairs for value in pair]
    expected = fmean((a - b) ** 2 for i, a in enumerate(values) for j, b in enumerate(values) if i != j)
    assert interval_alpha(pairs) == pytest.approx(1 - fmean((a - b) ** 2 for a, b in pairs) / expected)


def test_a_reviewed_caption_is_preferred(project: AnnotationProject, annotate: Annotate) -> None:
    project.set_double(1)
    annotate("anna", "A boat.", rating=1)
    annotate("ben", "A red boat.", rating=2)
    (early,) = read_refinements(project)
    assert (early.caption, early.rating, early.reviewed) == ("A boat.", 1, False)
    next_review(project, "ben", "r")  # anna's
    other = next_review(project, "cleo", "r")  # ben's
    assert other.annotator == "ben"
    approve(project, "cleo", other.id, Edit(caption="A red boat drifts.", session="r", sequence=1))
    (late,) = read_refinements(project)
    assert (late.caption, late.rating, late.reviewed) == ("A red boat drifts.", 2, True)
    assert (late.tar, late.key, late.original) == ("train/000000.tar", "v0", "A red boat number 0 drifts on a lake.")
