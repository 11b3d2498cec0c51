"""`pe video-dataset progress`: counts, pace and agreement of an annotation project."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from perception_encoder.cli import options, output
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store

if TYPE_CHECKING:
    from perception_encoder.video_dataset.annotation.progress import Agreement


def progress(data: Data, store: Store = None, as_json: options.Json = False) -> None:
    """Show how far annotators are.

    Counts of videos, what each person has done and how long it took, and how far two people agree: the share of words
    that their captions have in common, Cohen's kappa on which words of the model's caption they removed, and
    Krippendorff's alpha of their ratings.

    Examples:

        pe video-dataset progress clips
        pe video-dataset progress clips --json
    """
    from perception_encoder.video_dataset.annotation.progress import count_progress, measure_agreement
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    state, agreement = count_progress(project), measure_agreement(project)
    project.close()
    if as_json:
        output.print_json({**asdict(state), "hours_left": state.hours_left, "agreement": asdict(agreement)})
        return
    rows = [
        (
            person.name,
            person.origin,
            person.done,
            person.last_hour,
            _rounded(person.seconds),
            person.skipped,
            person.reviewed,
        )
        for person in state.people
    ]
    output.print_table(("name", "origin", "done", "last hour", "seconds each", "skipped", "reviewed"), rows)
    left = "" if state.hours_left is None else f"; about {state.hours_left:.1f} hours of work left"
    counts = f"{state.begun} begun, {state.skipped} skipped, {state.reviewed} reviewed{left}"
    output.print_remark(f"{state.done:,} of {state.videos:,} videos done, {counts}")
    if agreement.videos:
        output.print_remark(describe_agreement(agreement))


def describe_agreement(agreement: Agreement) -> str:
    """One line on how far two people agree."""
    parts = {
        "words in common": agreement.similarity,
        "kappa of removed words": agreement.words,
        "alpha of ratings": agreement.ratings,
        "ratings within 1": agreement.within_one,
    }
    values = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value is not None)
    return f"agreement on {agreement.videos} videos: {values}"


def _rounded(seconds: float | None) -> str:
    return output.NONE if seconds is None else f"{seconds:.0f}"
