"""`pe classify`: classify images and videos by your labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import OUTPUT, option
from perception_encoder.cli.output import track
from perception_encoder.models.defaults import default_model

if TYPE_CHECKING:
    from perception_encoder.evaluation.classification.labels import ClassifiedFile


def classify(
    files: options.Files,
    labels: Annotated[str, option("Labels separated by commas, or @FILE with one per line.", "LABELS")],
    prompts: options.Prompts = "photo",
    model: options.Spec = options.NO_MODEL,
    top: Annotated[int, option("Number of labels per file.", panel=OUTPUT, least=1)] = 3,
    json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Classify images and videos by your labels.

    Zero-shot: nothing is trained. Each label is put into a set of prompts, and each file gets the most similar labels,
    with probabilities over all labels. Write labels as you would say them ("ginger cat"), and add one for everything
    else ("other pet"). Unreadable files are skipped and listed. In a pipe, the table is tab-separated.

    Examples:

        pe classify photos --labels "cat,dog,other pet"
        pe classify 'clips/*.mp4' --labels "playing football,playing the guitar" --prompts kinetics
        pe classify photos --labels @labels.txt -m PE-Core-L14-336
        pe classify photos --labels "cat,dog" | cut -f1,2
    """
    arguments = options.without(locals(), "files", "labels", "json", "strict")
    from perception_encoder.evaluation.classification import labels as classification

    result = classification.classify(files, labels, **arguments, progress=track)
    if json:
        output.print_json(result.to_dict())
    elif result:
        columns = ("file", "label", "probability", "other labels")[: 3 if top == 1 else 4]
        output.print_table(columns, (_row(file)[: len(columns)] for file in result))
    output.report_left_out(result.left_out)
    output.print_demo(str(model.name or default_model()))
    output.exit_with_skipped(result.skipped, len(result), strict)


def _row(file: ClassifiedFile) -> tuple[str, ...]:
    (label, probability), *others = file.labels
    return (file.id, label, f"{probability:.0%}", ", ".join(f"{label} {share:.0%}" for label, share in others))
