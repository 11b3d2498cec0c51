"""`pe video-dataset export`: the refined captions as tars or for Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import flag, option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store


def export(
    data: Data,
    out: Annotated[Path, options.out_option("A new directory of tars, or a .json file for Label Studio.", "OUT")],
    store: Store = None,
    refined_only: Annotated[bool, flag("--refined-only", "Leave out videos without a refined caption.")] = False,
    video_prefix: Annotated[str, option("For Label Studio: the address of the videos.", "URL")] = "",
) -> None:
    """Write refined captions: tars, or JSON.

    A directory gets the dataset in the layout of the PE Video Dataset, with the refined captions as `human_caption`,
    and `refined_by`, `caption_rating` and `caption_reviewed`; names of people are left out. Captions of a simulated
    annotator are `refined_caption` instead. Of several annotations, an approved one is taken, else the earliest.

    A .json file gets all annotations in Label Studio's format; `video` is URL + KEY.mp4. The interface of the project
    there is printed.

    Examples:

        pe video-dataset export clips -o refined
        pe video-dataset export clips -o refined --refined-only
        pe video-dataset export clips -o labels.json --video-prefix "/data/local-files/?d=clips/"
    """
    from perception_encoder.video_dataset.annotation.export import export_dataset
    from perception_encoder.video_dataset.annotation.label_studio import LABELING_CONFIG, export_tasks
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    if out.suffix == ".json":
        count = export_tasks(project, out, video_prefix)
        output.print_line(f"{count:,} videos with their annotations: {out}")
        for line in LABELING_CONFIG.splitlines():
            output.print_line(line)
    else:
        counts = export_dataset(project, out, refined_only, track)
        output.print_line(f"{counts.videos:,} videos, {counts.refined:,} with refined captions: {out}")
    project.close()
