"""`pe video-dataset import`: annotations that were made in Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.options import argument, option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store

app = typer.Typer()


@app.command()
def import_labels(
    data: Data,
    labels: Annotated[Path, argument("FILE", "Tasks that Label Studio exported as JSON.")],
    store: Store = None,
    annotator: Annotated[str | None, option("Name for annotations that do not say whose they are.", "NAME")] = None,
) -> None:
    """Read annotations of Label Studio.

    Adds them to the annotation project, all or none. A video is found by its tar and key, or by the name of its file.
    An annotation that is there already is counted, and not added twice.

    Examples:

        pe video-dataset import clips project-1.json
    """
    from perception_encoder.video_dataset.annotation.label_studio import import_tasks
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    counts = import_tasks(project, labels, annotator)
    output.print_line(f"{counts.added:,} annotations added, {counts.known:,} already there")
    project.close()
