"""The options that the commands of `pe eval` share, and how each ends: JSON, a table, and the skipped inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import output
from perception_encoder.cli.options import BY_POSITION, DATASET, HEAD, argument, model_option, option, out_option
from perception_encoder.cli.progress import track
from perception_encoder.models.registry import demo_note

if TYPE_CHECKING:
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.evaluation.results import Evaluator
    from perception_encoder.inference.layer_features import LayerFeatures


def data_option(text: str, metavar: str = "PATH", least: float | None = None) -> Any:
    """An option of the dataset."""
    return option(text, metavar, DATASET, least=least)


TwoTowers = Annotated[str, model_option(others="timm:NAME; open_clip:NAME,WEIGHTS"), BY_POSITION]
Embedder = Annotated[str, model_option(others="timm:NAME; open_clip:NAME,WEIGHTS; hf:NAME (transformers)"), BY_POSITION]
ResultFile = Annotated[Path, argument("FILE", "JSON that a command of `pe eval` wrote with -o.")]

Classes = Annotated[Path, data_option("Class directories, shards with labels or .cls, or a table of paths and labels.")]
DenseData = Annotated[Path, data_option("Dataset: see above.")]
Split = Annotated[str, data_option("Split to evaluate: a subdirectory, or a value in the annotations.", "NAME")]
Train = Annotated[Path | None, data_option("Dataset with the training split [default: that of --data].")]
Media = Annotated[Path | None, data_option("Directory of the files listed in --data [default: its own].", "DIR")]
Prompts = Annotated[str, option("photo (25), imagenet (80), kinetics (28), name or a file; commas between.", "NAMES")]
Transforms = Annotated[str, option("squash, crop, or both.", "NAMES")]
Layer = Annotated[int | None, option("Layer: 0, 1, … or -1, -2, … [default: the model's output].", "N")]
Pool = Annotated[str | None, option("attn, cls or mean; for timm: and hf: models cls or mean.", "NAME")]
Epochs = Annotated[int, option("Passes over the training images.", panel=HEAD, least=1)]
Channels = Annotated[int, option("Width of the head; published results: 256.", panel=HEAD, least=4)]
HeadSeeds = Annotated[int, option("Heads to fit, each with its own seed; 1 gives no interval.", panel=HEAD, least=1)]
Out = Annotated[Path | None, out_option("JSON file of all results, for `pe eval compare`.")]


def class_options(
    classes: str = "", mapping: Path | None = None, onto: str = "", media: Path | None = None, trim: int = 0
) -> ClassOptions:
    """Return the options of a dataset's classes."""
    from perception_encoder.datasets.classified import ClassOptions

    return ClassOptions(classes=classes, mapping=mapping, onto=onto, media=media, trim=trim)


def layer_features(model: str, layer: int | None, final_norm: bool = False) -> LayerFeatures:
    """Load a model at one layer, by default the last; ConfigError for one that does not exist."""
    from perception_encoder.inference.load import load_layers

    return load_layers(model, layer=-1 if layer is None else layer, final_norm=final_norm)


def finish(
    evaluators: Iterable[Evaluator[Any]],
    models: Mapping[str, Any],
    split: str,
    about: Mapping[str, str],
    out: Path | None,
) -> None:
    """Run evaluators, write the JSON, print the table, list undecodable items, and exit.

    `models`: one model under each of its transforms, by name of the transform.
    """
    from perception_encoder.evaluation.report import full_table, to_json
    from perception_encoder.evaluation.results import Result, evaluate
    from perception_encoder.files import write_text

    measurements = tuple(evaluate(evaluators, models, track))
    failures = {str(failure): failure for measurement in measurements for failure in measurement.failures}
    model = next(iter(models.values())).name
    result = Result(model=model, split=split, measurements=measurements, failures=tuple(failures), about=dict(about))
    if out is not None:
        write_text(out, to_json(result))
    table = full_table(result).filled()
    output.print_table(table.columns, table.rows, title=f"{model}, {split}")
    if note := demo_note(model):
        output.print_warning(note)
    evaluated = max((metric.n for each in measurements for metric in each.metrics), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), evaluated + len(failures)))
