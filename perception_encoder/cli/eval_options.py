"""Options that the commands of `pe eval` share, and how they end: JSON, a table, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.errors import InputError
    from perception_encoder.evaluation.results import Measurement
    from perception_encoder.models.protocols import ImageEncoder

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
    """What the options say of a set's classes."""
    from perception_encoder.datasets.classified import ClassOptions

    return ClassOptions(classes=classes, mapping=mapping, onto=onto, media=media, trim=trim)


def name_of(encoders: Mapping[str, ImageEncoder]) -> str:
    """What the model under some transforms is listed under."""
    return next(iter(encoders.values())).name


def numbers(given: str) -> list[float]:
    """The numbers of "10,20"; ConfigError where they are none."""
    from perception_encoder.errors import ConfigError

    try:
        return [float(each) for each in given.split(",")]
    except ValueError:
        raise ConfigError(f"{given!r} is no list of numbers with commas between") from None


def finish(
    model: str,
    split: str,
    found: Sequence[tuple[Sequence[Measurement], Sequence[InputError]]],
    about: Mapping[str, str],
    out: Path | None,
) -> None:
    """Write the JSON, print the table, list what could not be decoded, and end with the status that says so."""
    from perception_encoder.evaluation.report import full_table, to_json, write_text
    from perception_encoder.evaluation.results import Result

    measurements = tuple(measurement for some, _ in found for measurement in some)
    failures = {str(failure): failure for _, some in found for failure in some}
    result = Result(model=model, split=split, measurements=measurements, failures=tuple(failures), about=dict(about))
    if out is not None:
        write_text(out, to_json(result))
    table = full_table(result).filled()
    output.print_table(table.columns, table.rows, title=f"{model}, {split}")
    measured = max((metric.n for m in measurements for metric in m.metrics), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), measured + len(failures)))
