"""`pe train`: train an encoder of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.progress import progress, track

app = typer.Typer()


@app.callback()
def train() -> None:
    """Train an encoder."""


@app.command()
def builtin(
    photos: Annotated[Path, typer.Option(help="Folder with train.tar (or train/*.tar) of labelled photographs.")],
    drawings: Annotated[Path | None, typer.Option(help="Folder that `pe data prepare` made.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, metrics, weights.")] = Path("runs/builtin"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: name.name=value.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Four tiny steps, to see that all works.")] = False,
) -> None:
    """Train the built-in model, PE-Core-N16-128 (two hours on 2 cores, in float32).

    A run that was stopped goes on where its last checkpoint is. Shards hold KEY.jpg with KEY.json
    (`source`, `label`, and if there are any `coarse`, `description`, `kids`, `tags`).

    Examples:

        pe data prepare datasets && pe train builtin --photos photos --drawings datasets
        pe train builtin --photos photos --out runs/short --set optimizer.lr=3e-3 --set batch_size=128
    """
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.pretraining.run import pretrain
    from perception_encoder.recipes import builtin as recipe
    from perception_encoder.recipes.override import override

    keep_freed_memory()
    config = override(recipe.debug() if debug else recipe.builtin(), set_ or [])
    folders = [photos] if drawings is None else [photos, drawings]
    with progress("training", config.steps) as advance:
        done = 0

        def show(row: dict[str, float]) -> None:
            nonlocal done
            advance(int(row["step"]) - done)
            done = int(row["step"])
            output.print_line("  ".join(f"{name} {value:g}" for name, value in row.items()))

        path = pretrain(config, folders, out, track, show)
    output.print_line(f"weights: {path}")
    output.print_line(f'try them: pe classify PICTURE --labels "cat,dog" --model {path}')
