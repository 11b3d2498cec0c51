"""`python -m synthetic.train`: train a built-in model by its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.cli.options import DATASET, Overrides, option
from perception_encoder.cli.train import Debug, Out, Recipe, Settings, ShardPaths, run, show_settings
from perception_encoder.stages import configure
from synthetic.builtin.recipes import STAGES
from synthetic.command_line import run_command

DATA = "Directory of labelled photographs, of rendered scenes, or a file of conversations; repeat for more."


def show_recipes(listing: bool) -> None:
    """List the recipes and stop."""
    if listing:
        rows = [(name, trains) for stage in STAGES for name, (trains, _) in stage.recipes.items()]
        output.print_table(("recipe", "trains"), rows)
        raise typer.Exit(output.OK)


def train(
    recipe: Recipe,
    data: Annotated[list[Path] | None, option(DATA, "PATH", DATASET)] = None,
    shards: ShardPaths = None,
    out: Out = None,
    set_: Overrides = None,
    debug: Debug = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=show_recipes, is_eager=True, help="List the recipes and exit.")
    ] = False,
    settings: Settings = False,
) -> None:
    """Train a built-in model.

    As `pe train`, but what the built-in models are never trained on is left out of the data, and tars of rendered
    scenes are conversations for a language model.

    Examples:

        python -m synthetic.train builtin --data photos --data datasets
        torchrun --nproc-per-node=2 -m synthetic.train builtin_second --data photos --data datasets
        python -m synthetic.train language_builtin --data scenes --data receipts.jsonl --data photographs
    """
    stage, config = configure(recipe, set_ or [], debug, STAGES)
    if settings:
        return show_settings(config)
    run(stage, config, data or [], shards or [], out or Path("runs") / recipe)


if __name__ == "__main__":
    run_command("synthetic.train", train)
