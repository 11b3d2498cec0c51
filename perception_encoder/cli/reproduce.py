"""`pe reproduce`: the paper's experiments in small, on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import track

app = typer.Typer()


@app.callback()
def reproduce() -> None:
    """Repeat the paper's experiments in small."""


@app.command()
def recipe(
    photos: Annotated[Path, typer.Option(help="Folder with train, val and test shards of labelled photographs.")],
    drawings: Annotated[Path, typer.Option(help="Folder that `pe data prepare` made.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs: checkpoints and metrics.")] = Path("runs/recipe"),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON of the figures; a page and a plot go beside it.")
    ] = Path("recipe.json"),
) -> None:
    """Train with steps 1, 1-5, 1-7 and 1-9 of section 2.1, two seeds each, equal FLOPs (two hours on 2 cores).

    A run that was stopped goes on from its last checkpoint; one that the JSON has is not run again.

    Examples:

        pe data prepare datasets && pe reproduce recipe --photos photos --drawings datasets
    """
    from perception_encoder.evaluation.report import write_text
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.recipes.recipe_page import draw, page
    from perception_encoder.recipes.reproduce_recipe import Place, reproduce_recipe

    keep_freed_memory()

    def show(row: dict[str, float]) -> None:
        output.print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))

    place = Place(photos=photos, drawings=drawings, runs=runs, result=out)
    result = reproduce_recipe(place, track=track, listener=show)
    plot = out.with_suffix(".png")
    draw(result, plot)
    text = page(result, plot.name)
    write_text(out.with_suffix(".md"), text)
    output.print_line(text)
