"""The options that the commands of `pe eval` share, and how each ends: JSON, a table, and the skipped inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import output
from perception_encoder.cli.options import (
    BY_POSITION,
    DATASET,
    HEAD,
    MEDIA,
    OUTPUT,
    MaxFrames,
    Tiles,
    argument,
    flag,
    model_option,
    option,
    out_option,
)
from perception_encoder.cli.output import track
from perception_encoder.models.registry import demo_note

if TYPE_CHECKING:
    from perception_encoder.evaluation.results import Result


def data_option(text: str, metavar: str = "PATH", least: float | None = None, *, advanced: bool = False) -> Any:
    """An option of the dataset."""
    return option(text, metavar, DATASET, least=least, advanced=advanced)


TwoTowers = Annotated[str, model_option(others="timm:NAME; open_clip:NAME,WEIGHTS"), BY_POSITION]
Embedder = Annotated[str, model_option(others="timm:NAME; open_clip:NAME,WEIGHTS; hf:NAME (transformers)"), BY_POSITION]
LanguageModel = Annotated[
    str, model_option(others="builtin-lang; a run of `pe train`; facebook/Perception-LM-1B"), BY_POSITION
]
ResultFile = Annotated[Path, argument("FILE", "JSON written by a command of `pe eval` with -o.")]

Classes = Annotated[Path, data_option("Class directories, shards with labels or .cls, or a table of paths and labels.")]
DenseData = Annotated[Path, data_option("Dataset: see above.")]
QuestionData = Annotated[Path, data_option("The dataset as published, or its Parquet files from the hub.")]
Split = Annotated[str, data_option("Split to evaluate: a subdirectory, or a value in the annotations.", "NAME")]
QuestionSplit = Annotated[str, data_option("Split [default: the one that papers report].", "NAME")]
Train = Annotated[Path | None, data_option("Dataset with the training split [default: that of --data].")]
Media = Annotated[Path | None, data_option("Directory of the files listed in --data [default: next to it].", "DIR")]
ListedMedia = Annotated[
    Path | None, data_option("Directory of the files listed in --data [default: next to it].", "DIR", advanced=True)
]
Items = Annotated[int | None, data_option("Maximum number of questions, at even intervals [default: all].", "N", 1)]
Blind = Annotated[bool, flag("--blind", "Show no image: what the model knows without looking.", MEDIA)]
Records = Annotated[Path | None, option("JSONL file of all answers; a run resumes from it.", "FILE", OUTPUT)]
Prompts = Annotated[str, option("photo (25), imagenet (80), kinetics (28), name or a file; commas between.", "NAMES")]
Transforms = Annotated[str, option("squash, crop, or both.", "NAMES")]
Layer = Annotated[int | None, option("Layer: 0, 1, … or -1, -2, … [default: the model's output].", "N")]
Pool = Annotated[str | None, option("attn, cls or mean; for timm: and hf: models cls or mean.", "NAME", advanced=True)]
Epochs = Annotated[int, option("Passes over the training images.", panel=HEAD, least=1)]
Channels = Annotated[int, option("Width of the head; published results: 256.", panel=HEAD, least=4)]
HeadWidth = Annotated[int, option("Width of the head; published results: 256.", panel=HEAD, least=4, advanced=True)]
HeadSeeds = Annotated[
    int, option("Heads to fit, each with its own seed; 1 gives no interval.", panel=HEAD, least=1, advanced=True)
]
Out = Annotated[Path | None, out_option("JSON file of all results, for `pe eval compare`.")]


def run(task: str, arguments: dict[str, Any], **parsed: Any) -> None:
    """Evaluate by `perception_encoder.evaluate`, with the arguments of a command, and show the result.

    `parsed`: arguments that the command reads from text.
    """
    from perception_encoder.api import evaluate

    given = {**arguments, **parsed}
    out = given.pop("out")
    show(evaluate(task, given.pop("model"), given.pop("data"), progress=track, **given), out)


def show(result: Result, out: Path | None) -> None:
    """Write the JSON, print the table, list undecodable items, and exit."""
    from perception_encoder.evaluation.comparison import full_table
    from perception_encoder.evaluation.results import to_json
    from perception_encoder.files import write_text

    if out is not None:
        write_text(out, to_json(result))
    table = full_table(result).filled()
    output.print_table(table.columns, table.rows, title=f"{result.model}, {result.split}")
    if note := demo_note(result.model):
        output.print_warning(note)
    failures = {str(failure): failure for measurement in result.measurements for failure in measurement.failures}
    evaluated = max((metric.n for measurement in result.measurements for metric in measurement.metrics), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), evaluated + len(failures)))


def questions_command(datasets: str, help_text: str, put: Callable[..., Result]) -> Callable[..., None]:
    """Make a command that puts the questions of a dataset; `put` gets its options, and returns the result.

    `datasets`: the help of the argument DATASET.
    """

    def questions(
        dataset: str,
        model: LanguageModel,
        data: QuestionData,
        split: QuestionSplit = "",
        items: Items = None,
        blind: Blind = False,
        frames: MaxFrames = 8,
        tiles: Tiles = None,
        records: Records = None,
        out: Out = None,
    ) -> None:
        result = put(
            model,
            data,
            dataset=dataset,
            split=split,
            items=items,
            blind=blind,
            frames=frames,
            tiles=tiles,
            records=records,
            progress=track,
        )
        show(result, out)

    questions.__annotations__["dataset"] = Annotated[str, argument("DATASET", datasets)]
    questions.__doc__ = help_text
    return questions
