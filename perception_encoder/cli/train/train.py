"""`pe train`: train a model by a recipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import DATASET, PLAN, argument, flag, option
from perception_encoder.cli.progress import progress, reporter, track
from perception_encoder.cli.train import plan as planning

if TYPE_CHECKING:
    from perception_encoder.training.config import TrainingConfig

DATA = "Class directories, train.tar, `train/*.tar`, or a table of paths and labels or captions; repeat for more."
SHARDS = "WebDataset tars to stream: directory, glob or URL, with :WEIGHT for a mixture; repeat for more."
OUT = "Directory for checkpoints, metrics and weights [default: runs/RECIPE]."


def train(
    recipe: Annotated[str, argument("RECIPE", "Name of the recipe; `--list` shows all.")],
    data: Annotated[list[Path] | None, option(DATA, "PATH", DATASET)] = None,
    shards: Annotated[list[str] | None, option(SHARDS, "PATH", DATASET)] = None,
    out: Annotated[Path | None, options.out_option(OUT, "DIR")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
    debug: Annotated[bool, flag("--debug", "Run four steps of a tiny model, as a check.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", callback=planning.show_recipes, is_eager=True, help="List the recipes and exit.")
    ] = False,
    settings: Annotated[bool, flag("--settings", "Print all settings with default and meaning, and exit.")] = False,
    plan: Annotated[bool, flag("--plan", "Print the cost on a cluster and exit.", PLAN)] = False,
    devices: Annotated[
        int | None, option("Number of devices [default: 8, or the batch if that is smaller].", "N", PLAN)
    ] = None,
    device: Annotated[str, option("h100, a100-80gb, …, or TFLOP/s:GB.", "NAME", PLAN)] = "h100",
    utilization: Annotated[float, option("Achieved share of the peak FLOP/s.", "SHARE", PLAN)] = 0.4,
) -> None:
    """Train a model from a recipe.

    An interrupted run resumes from its last checkpoint if the command is repeated. --set changes a setting: lr, steps
    and batch_size in every recipe, and all that --settings prints. --data is read into memory: `DIR/CLASS/*.jpg` or
    `DIR/train/CLASS/*.jpg`; a CSV, TSV, JSONL or Parquet file with `path` and `label` or `caption`; or tars of KEY.jpg
    with KEY.json (`source`, `label`, optionally `coarse`, `description`, `kids`, `tags`).

    --shards takes a tar, a directory, a glob or a URL (https://…, s3://…), with braces; the tars hold KEY.jpg with
    KEY.txt, KEY.caption or KEY.json. `streams.captions` names the caption fields of the JSON. Needs the extra `train`.

    Examples:

        pe train --list
        pe train finetune --settings
        pe train core_n16 --data photos -o runs/short --set lr=3e-3 --set steps=500 --set batch_size=128
        pe train finetune --data photos/ --data more.csv --set initial=PE-Core-B16-224
        pe train core_n16 --shards "s3://bucket/web-{0000..0127}.tar:3" --shards photos/train.tar
        pe train core_g14 --plan --devices 512 --device h100
    """
    from perception_encoder.recipes import debug_form, find_recipe, override

    config = find_recipe(recipe)
    config = override(debug_form(config) if debug else config, set_ or [])
    if settings:
        return planning.show_settings(config)
    if plan:
        return planning.show_plan(config, devices, device, utilization)
    train_config(config, data or [], shards or [], out or Path("runs") / recipe)


def train_config(
    config: TrainingConfig,
    data: Sequence[Path],
    shards: Sequence[str],
    out: Path,
    run: Callable[..., Path] | None = None,
) -> None:
    """Run, or resume, a configuration by `run` (default: `run_recipe`), and print how to use the weights."""
    from perception_encoder.data.streams import Shards
    from perception_encoder.errors import DataError
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.pretraining.training_files import LAYOUTS
    from perception_encoder.recipes import run_recipe
    from perception_encoder.training.checkpoint import BEST

    datasets: list[Path | Shards] = [*data, *map(Shards.parse, shards)]
    if not datasets:
        raise DataError(f"no data: give --data or --shards; {LAYOUTS}")
    keep_freed_memory()
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes the first one prints
        output.console.quiet = True
    else:
        for name in ("training.loop", "dense_training.run"):  # they report what is resumed, loaded and frozen
            logging.getLogger(f"perception_encoder.{name}").setLevel(logging.INFO)
    try:
        with progress("training", config.steps) as advance:
            arguments = config, datasets, out, track, reporter(advance)
            path = run_recipe(*arguments) if run is None else run(*arguments)
    except KeyboardInterrupt:
        if not output.console.quiet:
            output.print_warning(how_to_resume(out))
        raise typer.Exit(output.INTERRUPTED) from None
    output.print_line(f"weights: {path}")
    if (best := path.with_name(BEST)).exists():
        output.print_line(f"weights of the best validated step: {best}")
    output.print_line(f"try it: {command_of(config, path)}")


def how_to_resume(out: Path) -> str:
    """Return what a stopped run is told."""
    from perception_encoder.training.checkpoint import find_checkpoints

    checkpoints = find_checkpoints(out)
    if not checkpoints:
        return f"stopped before the first checkpoint in {out}; the same command starts anew"
    return f"stopped; the same command resumes from step {checkpoints[0][1].step} in {out}"


def command_of(config: TrainingConfig, path: Path) -> str:
    """Return a command that shows what the weights of a stage can do."""
    from perception_encoder.dense_training.config import DepthTrainingConfig, DetectorConfig
    from perception_encoder.language_alignment.config import LanguageConfig
    from perception_encoder.spatial_alignment.config import SpatialConfig

    match config:
        case DepthTrainingConfig():
            return f"pe depth IMAGE --head {path} -o depths"
        case DetectorConfig():
            return f"pe detect IMAGE --head {path} -o detected"
        case LanguageConfig():
            return f'pe ask IMAGE "What is in the image?" -m {path}'
        case SpatialConfig():
            return f"pe features IMAGE --layer -1 --bare -o features.png -m {path}"
    return f'pe classify IMAGE --labels "cat,dog" -m {path}'
