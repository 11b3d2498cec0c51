"""Write a project's dataset anew, with the refined captions in its tars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import read_video_tar
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.progress import Refinement, count_progress, read_refinements
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.tars import OutputVideo, refined_fields, table_key, write_dataset


@dataclass(frozen=True)
class ExportCounts:
    """What was written."""

    videos: int
    refined: int
    """Videos whose caption was refined in this project."""


@dataclass(frozen=True, kw_only=True)
class ExportChoice:
    """Which videos are written, and what is added to their fields."""

    refined_only: bool = False
    """Leave out videos without a refined caption of this project."""
    selection: frozenset[str] | None = None
    """SPLIT/KEY of the videos to write; None for all."""
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By SPLIT/KEY, such as a category and a score."""


def export_dataset(
    project: AnnotationProject, out: Path, choice: ExportChoice | None = None, track: Track = untracked
) -> ExportCounts:
    """Write the chosen videos, with `human_caption` (or `refined_caption`, of a simulated
    annotator), `refined_by`, `caption_rating` and `caption_reviewed`. Names of people are not written.

    Raises OutputError if `out` is not new or empty, and DataError for a damaged tar.
    """
    choice = choice or ExportChoice()
    refinements = {(each.tar, each.key): each for each in read_refinements(project)}
    refined: list[str] = []

    def videos() -> Iterator[OutputVideo]:
        for name, tar in project.tars.items():
            for record in read_video_tar(tar):
                key = table_key(record)
                if choice.selection is not None and key not in choice.selection:
                    continue
                refinement = refinements.get((name, record.key))
                added = choice.fields.get(key, {})
                if refinement is not None:
                    refined.append(record.key)
                    metadata = refined_fields(record.metadata, refinement.caption, refinement.origin)
                    yield OutputVideo.of(record, {**metadata, **_about(refinement), **added}, tar.split)
                elif not choice.refined_only:
                    yield OutputVideo.of(record, {**record.metadata, **added}, tar.split)

    total = len(refinements) if choice.refined_only else count_progress(project).videos
    counts = write_dataset(out, track(videos(), "writing", total))
    return ExportCounts(sum(counts.values()), len(refined))


def _about(refinement: Refinement) -> dict[str, object]:
    return {
        "model_caption": refinement.original or None,
        "caption_rating": refinement.rating,
        "caption_reviewed": refinement.reviewed,
    }
