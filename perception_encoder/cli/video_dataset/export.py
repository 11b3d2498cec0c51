"""`pe video-dataset export`: the refined captions as tars or for Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from perception_encoder.cli import options, output
from perception_encoder.cli.options import flag, option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store

if TYPE_CHECKING:
    from perception_encoder.video_dataset.annotation.export import ExportChoice


def export(
    data: Data,
    out: Annotated[Path, options.out_option("A new directory of tars, or a .json file for Label Studio.", "OUT")],
    store: Store = None,
    refined_only: Annotated[bool, flag("--refined-only", "Leave out videos without a refined caption.")] = False,
    selection: Annotated[Path | None, option("Write only these: a table of `select`.", "FILE")] = None,
    scores: Annotated[Path | None, option("Add `interest_score`: a table of `score`.", "FILE")] = None,
    categories: Annotated[Path | None, option("Add `category_name`: a table of `categorise`.", "FILE")] = None,
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
        pe video-dataset export clips -o out --selection selection.csv --categories categories.csv
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
        counts = export_dataset(project, out, choose_videos(refined_only, selection, scores, categories), track)
        output.print_line(f"{counts.videos:,} videos, {counts.refined:,} with refined captions: {out}")
    project.close()


def choose_videos(
    refined_only: bool, selection: Path | None, scores: Path | None, categories: Path | None
) -> ExportChoice:
    """Read the tables of what is written."""
    from perception_encoder.video_dataset.annotation.export import ExportChoice
    from perception_encoder.video_dataset.outcomes import read_outcomes

    fields: dict[str, dict[str, Any]] = {}
    for path, column, name in ((scores, "score", "interest_score"), (categories, "category", "category_name")):
        for key, row in read_outcomes(path, column).items() if path is not None else ():
            fields.setdefault(key, {})[name] = row[column]
    keys = None if selection is None else frozenset(read_outcomes(selection))
    return ExportChoice(refined_only=refined_only, selection=keys, fields=fields)
