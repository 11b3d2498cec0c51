"""`pe eval suite`: the evaluation of labelled photographs, and of drawings by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.evaluate import options
from perception_encoder.cli.progress import track


def suite(
    model: shared.OwnModel,
    photos: Annotated[Path, options.data_option("Labelled photographs: shards, class directories, or a table.")],
    drawings: Annotated[Path | None, options.data_option("Directory that `pe data prepare` made.", "DIR")] = None,
    split: Annotated[str, options.data_option("test, or val (zero-shot only).", "NAME")] = "test",
    prompts: options.Prompts = "photo,imagenet",
    out: options.Out = None,
) -> None:
    """Evaluate zero-shot and by a probe.

    The evaluation of the built-in model. Zero-shot and by a linear probe: mean class accuracy in percent, with half the
    width of its 95 % interval, for both transforms (squash and centre crop) and the first of the prompts, next to
    chance; the JSON has all results. With drawings, also retrieval by name in the style that was never trained on.
    Shards hold KEY.jpg with KEY.json (`source`, `label`, optionally `coarse`). Of class directories or a table without
    splits, a fifth of each class is held out and evaluated; `pe train --set validation.share=0.2` does not train on it.
    Status 1: some images could not be decoded; they are listed and left out of every result.

    Examples:

        pe eval suite builtin --photos photos -o builtin.json
        pe eval suite PE-Core-B16-224 --photos photos --drawings datasets
        pe eval suite runs/builtin/model.safetensors --photos photos --split val
    """
    from perception_encoder.evaluation.report import classification_table, retrieval_table, to_json
    from perception_encoder.evaluation.suite import Suite
    from perception_encoder.evaluation.transforms import load_transforms
    from perception_encoder.files import write_text
    from perception_encoder.pretraining.builtin.held_out import find_unseen_labels

    encoders, about = load_transforms(model)
    evaluation = Suite(encoders, shared.items_of(prompts), track)
    evaluation.classify(photos, split, find_unseen_labels)
    if drawings is not None:
        evaluation.retrieve_drawings(drawings)
    result = evaluation.result(split, about)
    if out is not None:
        write_text(out, to_json(result))
    for table in (classification_table(result), retrieval_table(result)):
        if table.rows:
            output.print_table(table.columns, table.rows, title=f"{result.model}, {split}")
    default_model.print_demo(model)
    (encoder,) = evaluation.first.values()
    raise typer.Exit(output.report_skipped(encoder.failures, encoder.count))
