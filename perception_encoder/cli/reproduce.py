"""`pe reproduce`: the paper's experiments in small, on two cores."""

from __future__ import annotations

from pathlib import Path

import typer

from perception_encoder.cli import output, reproduce_layers
from perception_encoder.cli.progress import track
from perception_encoder.cli.reproduce_options import Drawings, Jobs, Out, Photos, Runs, show

app = typer.Typer()
app.add_typer(reproduce_layers.app)


@app.callback()
def reproduce() -> None:
    """Repeat the paper's experiments in small.

    A run that was stopped goes on from its last checkpoint; one that the JSON has is not run again.
    """


@app.command()
def recipe(
    photos: Photos,
    drawings: Drawings,
    runs: Runs = Path("runs/recipe"),
    out: Out = Path("recipe.json"),
    jobs: Jobs = 2,
) -> None:
    """Train with steps 1, 1-5, 1-7 and 1-9 of section 2.1, two seeds each, equal FLOPs (two hours on 2 cores).

    Examples:

        pe data prepare datasets && pe reproduce recipe --photos photos --drawings datasets
    """
    from experiments.recipe.page import draw, page
    from experiments.recipe.run import reproduce_recipe
    from experiments.reproduction import Place
    from perception_encoder.evaluation.report import write_text
    from perception_encoder.models.memory import keep_freed_memory

    keep_freed_memory()
    place = Place(photos=photos, drawings=drawings, runs=runs, result=out)
    result = reproduce_recipe(place, track=track, listener=show, jobs=jobs)
    plot = out.with_suffix(".png")
    draw(result, plot)
    write_text(out.with_suffix(".md"), page(result, plot.name))
    output.print_line(page(result, plot.name))


@app.command()
def distillation(
    photos: Photos,
    drawings: Drawings,
    runs: Runs = Path("runs/distillation"),
    out: Out = Path("distillation.json"),
    jobs: Jobs = 2,
) -> None:
    """Train a teacher, and a student with and without it, three seeds each (section 2.4; two hours on 2 cores).

    Examples:

        pe data prepare datasets && pe reproduce distillation --photos photos --drawings datasets
    """
    from experiments.distillation.page import page
    from experiments.distillation.run import reproduce_distillation
    from experiments.reproduction import Place
    from perception_encoder.evaluation.report import write_text
    from perception_encoder.models.memory import keep_freed_memory

    keep_freed_memory()
    place = Place(photos=photos, drawings=drawings, runs=runs, result=out)
    text = page(reproduce_distillation(place, track=track, listener=show, jobs=jobs))
    write_text(out.with_suffix(".md"), text)
    output.print_line(text)
