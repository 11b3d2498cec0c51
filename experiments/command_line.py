"""The options that the experiments share, and how each prints its progress and its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from perception_encoder.cli import output
from perception_encoder.cli.options import option, out_option
from synthetic.command_line import run_command

TOWERS = Path(__file__).parent / "towers"
"""Where the recipe in small writes the towers of its first and last point, and the layers in small read them."""

Photos = Annotated[Path, option("Directory of labelled photographs: train, val and test shards.", "DIR")]
Drawings = Annotated[Path, option("Directory that `synthetic.drawings` made.", "DIR")]
Runs = Annotated[Path, option("Directory of the runs: checkpoints and metrics.", "DIR")]
Towers = Annotated[Path, option("Directory of the towers of the recipe's first and last point.", "DIR")]
Jobs = Annotated[int, option("Runs at a time; they share the cores.", least=1)]
Out = Annotated[Path, out_option("JSON of the results.")]


def run_experiment(name: str, command: Callable[..., None]) -> None:
    """Run `python -m experiments.NAME`."""
    run_command(f"experiments.{name}", command)


def print_metrics(row: dict[str, float]) -> None:
    """Print a line of a run's metrics."""
    output.print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))


def announce(out: Path) -> None:
    """Say where the result is, and what puts it on its page."""
    output.print_line(f"{out} is written; if it is in docs/results: python -m benchmarks.result_pages")
