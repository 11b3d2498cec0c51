"""`pe train`: train an encoder of your own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output, recipes
from perception_encoder.cli.progress import progress, reporter, track

app = typer.Typer()
DATA = (
    "Directory with a directory for each class, or with train.tar or train/*.tar; or table of paths and labels or "
    "captions; may be given several times."
)
SHARDS = "Tars, read as needed: PLACE or PLACE:WEIGHT; may be given several times."


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train, by name: `--list` shows them.")],
    data: Annotated[list[Path] | None, typer.Option(help=DATA)] = None,
    photos: Annotated[Path | None, typer.Option(help="Like --data: labelled photographs.")] = None,
    drawings: Annotated[Path | None, typer.Option(help="Like --data: what `pe data prepare` made.")] = None,
    shards: Annotated[list[str] | None, typer.Option(help=SHARDS)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run: checkpoint, metrics, weights [default: runs/RECIPE].")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: name.name=value.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Four tiny steps, to see that all works.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it costs on a cluster, and stop.")] = False,
    devices: Annotated[int, typer.Option(help="For --plan: how many.")] = 8,
    device: Annotated[str, typer.Option(help="For --plan: h100, a100-80gb, …, or TFLOP/s:GB of one.")] = "h100",
    utilization: Annotated[float, typer.Option(help="For --plan: share of the peak that is reached.")] = 0.4,
    list_: Annotated[
        bool, typer.Option("--list", callback=recipes.show_recipes, is_eager=True, help="List the recipes.")
    ] = False,
) -> None:
    """Train by a recipe.

    A run that was stopped goes on where its last checkpoint is. What --data names is read into memory: DIR/CLASS/*.jpg
    or DIR/train/CLASS/*.jpg, a CSV, TSV, JSONL or Parquet file with `path` and `label` or `caption`, or tars of KEY.jpg
    with KEY.json (`source`, `label`, and if there are any `coarse`, `description`, `kids`, `tags`).

    A place of --shards is a tar, a folder, a glob or a URL (https://…, s3://…), with braces if need be; its tars hold
    KEY.jpg with KEY.txt, KEY.caption or KEY.json. `streams.captions` says which fields of the last are captions.

    Examples:

        pe train --list
        pe data prepare datasets && pe train builtin --photos photos --drawings datasets
        pe train builtin --data photos --out runs/short --set optimizer.lr=3e-3 --set batch_size=128
        pe train finetune --data photos/ --data more.csv --set initial=PE-Core-B16-224
        pe train builtin --shards "s3://bucket/web-{0000..0127}.tar:3" --shards photos/train.tar
        pe train core_g14 --plan --devices 512 --device h100
    """
    from perception_encoder.data.streams import Shards
    from perception_encoder.errors import DataError
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.pretraining.run import BEST
    from perception_encoder.pretraining.training_files import LAYOUTS
    from perception_encoder.recipes import debug_form, find_recipe, override, run_recipe

    config = find_recipe(recipe)
    config = override(debug_form(config) if debug else config, set_ or [])
    if plan:
        return recipes.show_plan(config, devices, device, utilization)
    given: list[Path | Shards] = [*(data or []), *(folder for folder in (photos, drawings) if folder is not None)]
    given += [Shards.parse(place) for place in shards or []]
    if not given:
        raise DataError(f"no data: give --data or --shards; {LAYOUTS}")
    keep_freed_memory()
    logging.getLogger("perception_encoder.train.loop").setLevel(logging.INFO)  # that a run resumes is said
    with progress("training", config.steps) as advance:
        path = run_recipe(config, given, out or Path("runs") / recipe, track, reporter(advance))
    output.print_line(f"weights: {path}")
    if (best := path.with_name(BEST)).exists():
        output.print_line(f"weights of the best validated step: {best}")
    output.print_line(f'try them: pe classify PICTURE --labels "cat,dog" --model {path}')
