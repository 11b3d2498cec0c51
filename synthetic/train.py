"""`python -m synthetic.train`: train a built-in model by its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import DATASET, argument, flag, option
from perception_encoder.cli.train.plan import show_settings
from perception_encoder.cli.train.train import OUT, SHARDS, train_config
from perception_encoder.data.streams import Shards
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import align_language
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.recipes import debug_form, override, paths_of, run_recipe
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.metrics import Listener
from synthetic.builtin.recipes import RECIPES, find_recipe
from synthetic.builtin.rules import RULES
from synthetic.command_line import run_command
from synthetic.questions.conversations import scene_conversations

DATA = "Directory of labelled photographs, of rendered scenes, or a file of conversations; repeat for more."


def run_builtin(
    config: TrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run a configuration as `run_recipe` does, with the rules of the built-in models' data, and scenes as such."""
    match config:
        case PretrainingConfig():
            return pretrain(config, data, out, track, listener, RULES)
        case LanguageConfig():
            expand = partial(scene_conversations, apart=config.apart)
            return align_language(config, paths_of(data), out, track, listener, expand)
    return run_recipe(config, data, out, track, listener)


def show_recipes(listing: bool) -> None:
    """List the recipes and stop."""
    if listing:
        output.print_table(("recipe", "trains"), [(name, trains) for name, (trains, _) in RECIPES.items()])
        raise typer.Exit(output.OK)


def train(
    recipe: Annotated[str, argument("RECIPE", "Name of the recipe; `--list` shows all.")],
    data: Annotated[list[Path] | None, option(DATA, "PATH", DATASET)] = None,
    photos: Annotated[Path | None, option("As --data: labelled photographs.", "DIR", DATASET)] = None,
    drawings: Annotated[Path | None, option("As --data: from `synthetic.drawings`.", "DIR", DATASET)] = None,
    shards: Annotated[list[str] | None, option(SHARDS, "PATH", DATASET)] = None,
    out: Annotated[Path | None, options.out_option(OUT, "DIR")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
    debug: Annotated[bool, flag("--debug", "Run four steps of a tiny model, as a check.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=show_recipes, is_eager=True, help="List the recipes and exit.")
    ] = False,
    settings: Annotated[bool, flag("--settings", "Print all settings with default and meaning, and exit.")] = False,
) -> None:
    """Train a built-in model.

    As `pe train`; what the built-in models are never trained on is left out of the data, and tars of rendered scenes
    are conversations for a language model.

    Examples:

        python -m synthetic.train builtin --photos photos --drawings datasets
        torchrun --nproc-per-node=2 -m synthetic.train builtin_second --photos photos --drawings datasets
        python -m synthetic.train language_builtin --data scenes --data receipts.jsonl --data photographs
    """
    config = find_recipe(recipe)
    config = override(debug_form(config) if debug else config, set_ or [])
    if settings:
        return show_settings(config)
    paths = [*(data or []), *(path for path in (photos, drawings) if path is not None)]
    train_config(config, paths, shards or [], out or Path("runs") / recipe, run_builtin)


if __name__ == "__main__":
    run_command("synthetic.train", train)
