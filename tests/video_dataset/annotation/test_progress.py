"""Counts, pace, agreement, differences of words, and the refined captions."""

from __future__ import annotations

from statistics import fmean

import pytest

from perception_encoder.video_dataset.annotation.progress import (
    count_progress,
    interval_alpha,
    measure_agreement,
    read_refinements,
    word_similarity,
)
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.annotation.work import Edit, approve, next_review, next_task, skip, undo
from tests.video_dataset.annotation.conftest import Annotate


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
