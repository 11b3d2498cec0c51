"""`pe eval`: measure a model, and make the pages that show the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import eval_attentive, eval_compare, eval_probes, eval_things, eval_zero_shot, output
from perception_encoder.cli.progress import track

app = typer.Typer()
for commands in (eval_zero_shot, eval_probes, eval_attentive, eval_things, eval_compare):
    app.add_typer(commands.app)


@app.callback()
def evaluate() -> None:
    """Measure a model."""


@app.command()
def suite(
    model: Annotated[str, typer.Argument(help="Name, alias or checkpoint of a model with a text tower.")],
    photos: Annotated[Path, typer.Option(help="Folder with train, val and test shards of labelled photographs.")],
    drawings: Annotated[Path | None, typer.Option(help="Folder that `pe data prepare` made.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file of all figures.")] = None,
    split: Annotated[str, typer.Option(help="test, or val (zero-shot only).")] = "test",
    prompts: Annotated[
        str, typer.Option(help="Names of templates: photo (25), imagenet (80), name.")
    ] = "photo,imagenet",
) -> None:
    """Classify labelled photographs, zero-shot and by a linear probe.

    Shown: mean class accuracy in percent, with half the width of its 95 % interval, under both transforms (squash and
    centre crop) with the first of the prompts, beside chance; the JSON has every figure. With drawings, the style that
    is never trained on is found by its names. Shards hold KEY.jpg with KEY.json (`source`, `label`, and if there is
    one `coarse`). Needs the extra `eval`. Status 1: some pictures could not be decoded, and are listed; they are in no
    figure.

    Examples:

        pe eval suite builtin --photos photos -o builtin.json
        pe eval suite PE-Core-B16-224 --photos photos --drawings datasets
        pe eval suite runs/builtin/model.safetensors --photos photos --split val
    """
    from perception_encoder.evaluation.report import classification_table, retrieval_table, to_json, write_text
    from perception_encoder.evaluation.suite import Suite
    from perception_encoder.evaluation.transforms import load_transforms
    from perception_encoder.pretraining.builtin.held_out import find_unseen_labels
    from perception_encoder.pretraining.builtin.targets import targets_of

    encoders, about = load_transforms(model)
    evaluation = Suite(encoders, [name.strip() for name in prompts.split(",")], track)
    evaluation.classify(photos, split, find_unseen_labels)
    if drawings is not None:
        evaluation.retrieve_drawings(drawings)
    result = evaluation.result(split, about)
    targets = targets_of(result)
    if out is not None:
        write_text(out, to_json(result))
    for table in (classification_table(result, targets), retrieval_table(result, targets)):
        if table.rows:
            output.print_table(table.columns, table.rows, title=f"{result.model}, {split}")
    (encoder,) = evaluation.first.values()
    raise typer.Exit(output.report_skipped(encoder.failures, encoder.count))


@app.command()
def page(
    result: Annotated[Path, typer.Argument(help="JSON file that `pe eval suite -o` wrote.")],
    card: Annotated[Path | None, typer.Option(help="Model card whose figures are brought up to date as well.")] = None,
) -> None:
    """Make a Markdown page of a result, beside it.

    Examples:

        pe eval page docs/results/builtin.json
        pe eval page docs/results/builtin.json --card perception_encoder/weights/MODEL_CARD.md
    """
    from perception_encoder.evaluation import report
    from perception_encoder.pretraining.builtin.targets import targets_of

    results = report.from_json(report.read_text(result), result.name)
    targets = targets_of(results)
    report.write_text(result.with_suffix(".md"), report.page(results, result.name, targets))
    if card is not None:
        report.write_text(card, report.update_card(report.read_text(card), results, targets))
