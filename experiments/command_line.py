"""The options that the experiments share, and how each prints its progress and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from perception_encoder.cli import output
from perception_encoder.cli.options import option, out_option
from perception_encoder.files import write_text
from synthetic.command_line import run_command

TOWERS = Path(__file__).parent / "towers"
"""Where the recipe in small writes the towers of its first and last point, and the layers in small read them."""

Photos = Annotated[Path, option("Directory of labelled photographs: train, val and test shards.", "DIR")]
Drawings = Annotated[Path, option("Directory that `synthetic.drawings` made.", "DIR")]
Runs = Annotated[Path, option("Directory of the runs: checkpoints and metrics.", "DIR")]
Towers = Annotated[Path, option("Directory of the towers of the recipe's first and last point.", "DIR")]
Jobs = Annotated[int, option("Runs at a time; they share the cores.", least=1)]
Out = Annotated[Path, out_option("JSON of the results; the page is written next to it.")]


def run_experiment(name: str, command: Callable[..., None]) -> None:
    """Run `python -m experiments.NAME`."""
    run_command(f"experiments.{name}", command)


def print_metrics(row: dict[str, float]) -> None:
    """Print a line of a run's metrics."""
    output.print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))


def write_page(
    out: Path, page: Callable[..., str], result: Any, draw: Callable[[Any, Path], None] | None = None
) -> None:
    """Write and print the page of a result, and its plot if it has one, next to the JSON."""
    plot = out.with_suffix(".png")
    if draw is not None:
        draw(result, plot)
    text = page(result) if draw is None else page(result, plot.name)
    write_text(out.with_suffix(".md"), text)
    output.print_line(text)
