"""Write a project's dataset anew, with the refined captions in its tars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perception_encoder.datasets.pe_video import read_video_tar
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.progress import Refinement, count_progress, read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.tars import OutputVideo, refined_fields, write_dataset


@dataclass(frozen=True)
class ExportCounts:
    """What was written."""

    videos: int
    refined: int
    """Videos whose caption was refined in this project."""


def export_dataset(
    project: AnnotationProject, out: Path, refined_only: bool = False, track: Track = untracked
) -> ExportCounts:
    """Write the videos, all or only the refined ones, with `human_caption` (or `refined_caption`, of a simulated
    annotator), `refined_by`, `caption_rating` and `caption_reviewed`. Names of people are not written.

    Raises OutputError if `out` is not new or empty, and DataError for a damaged tar.
    """
    refinements = {(each.tar, each.key): each for each in read_refinements(project)}
    refined: list[str] = []

    def videos() -> Iterator[OutputVideo]:
        for name, tar in project.tars.items():
            for record in read_video_tar(tar):
                refinement = refinements.get((name, record.key))
                if refinement is not None:
                    refined.append(record.key)
                    metadata = refined_fields(record, refinement.caption, refinement.origin)
                    yield OutputVideo(record, {**metadata, **_about(refinement)}, tar.split)
                elif not refined_only:
                    yield OutputVideo(record, record.metadata, tar.split)

    total = len(refinements) if refined_only else count_progress(project).videos
    counts = write_dataset(out, track(videos(), "writing", total))
    return ExportCounts(sum(counts.values()), len(refined))


def _about(refinement: Refinement) -> dict[str, object]:
    return {
        "model_caption": refinement.original or None,
        "caption_rating": refinement.rating,
        "caption_reviewed": refinement.reviewed,
    }
