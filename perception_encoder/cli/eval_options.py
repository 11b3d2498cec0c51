"""Options that the commands of `pe eval` share, and how they end: JSON, a table, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track

if TYPE_CHECKING:
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.evaluation.results import Evaluator


class Named(Protocol):
    """A model with a name."""

    @property
    def name(self) -> str:
        """The name that results carry."""
        ...


AnyModel = TypeVar("AnyModel", bound=Named)

Model = Annotated[
    str, typer.Argument(help="Name, alias or checkpoint; timm:NAME, or open_clip:NAME,WEIGHTS for texts too.")
]
Tower = Annotated[
    str, typer.Argument(help="Name, alias or checkpoint; timm:NAME; open_clip:NAME,WEIGHTS; hf:NAME (transformers).")
]
Data = Annotated[
    Path, typer.Option(help="Folder of class folders or of labelled shards, or a table with a path and a label a row.")
]
Split = Annotated[str, typer.Option(help="What is measured: a folder in the place, or what a column `split` says.")]
Train = Annotated[Path | None, typer.Option(help="Place of the training split [default: the same].")]
Classes = Annotated[str, typer.Option(help="imagenet, or a file of class names by folder [default: the folders'].")]
Mapped = Annotated[Path | None, typer.Option(help="JSON: the labels to keep, and what they may be called.")]
Onto = Annotated[str, typer.Option(help="With a mapping: imagenet, or the class file to choose from.")]
Media = Annotated[Path | None, typer.Option(help="Folder of the files that --data names [default: its own].")]
Trim = Annotated[int, typer.Option(min=0, help="Pixels to cut off each side; 2 removes ObjectNet's border.")]
Frames = Annotated[int, typer.Option(min=1, help="Uniform frames of a video.")]
Transforms = Annotated[str, typer.Option(help="squash, crop, or both.")]
Layer = Annotated[int | None, typer.Option(help="0-based, or negative from the end [default: the model's output].")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="JSON file of all figures, for compare and page.")]


def class_options(
    classes: str = "", mapping: Path | None = None, onto: str = "", media: Path | None = None, trim: int = 0
) -> ClassOptions:
    """Return the options of a dataset's classes; those that the built-in model never saw are a task of their own."""
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.pretraining.builtin.held_out import find_unseen_labels

    return ClassOptions(
        classes=classes, mapping=mapping, onto=onto, media=media, trim=trim, held_out=find_unseen_labels
    )


def numbers(given: str) -> list[float]:
    """The numbers of "10,20"; ConfigError where they are none."""
    from perception_encoder.errors import ConfigError

    try:
        return [float(each) for each in given.split(",")]
    except ValueError:
        raise ConfigError(f"{given!r} is no list of numbers with commas between") from None


def finish(
    evaluators: Iterable[Evaluator[AnyModel]],
    models: Mapping[str, AnyModel],
    split: str,
    about: Mapping[str, str],
    out: Path | None,
) -> None:
    """Run evaluators, write the JSON, print the table, list what could not be decoded, and exit with that status.

    `models`: one model under each of its transforms, by name.
    """
    from perception_encoder.evaluation.report import full_table, to_json, write_text
    from perception_encoder.evaluation.results import Result, evaluate

    measurements = tuple(evaluate(evaluators, models, track))
    failures = {str(failure): failure for measurement in measurements for failure in measurement.failures}
    model = next(iter(models.values())).name
    result = Result(model=model, split=split, measurements=measurements, failures=tuple(failures), about=dict(about))
    if out is not None:
        write_text(out, to_json(result))
    table = full_table(result).filled()
    output.print_table(table.columns, table.rows, title=f"{model}, {split}")
    evaluated = max((metric.n for each in measurements for metric in each.metrics), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), evaluated + len(failures)))
