"""Options that the commands of `pe reproduce` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output

Photos = Annotated[Path, typer.Option(help="Folder with train, val and test shards of labelled photographs.")]
Drawings = Annotated[Path, typer.Option(help="Folder that `pe data prepare` made.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs: checkpoints and metrics.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at a time; each has its share of the cores.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="JSON of the figures; the page goes beside it.")]


def show(row: dict[str, float]) -> None:
    """Print a line of a run's metrics."""
    output.print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))
