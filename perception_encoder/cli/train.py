"""`pe train` and `pe data`: train a model by a recipe; list recipes, settings and costs; make training data."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import DATASET, PLAN, argument, flag, option
from perception_encoder.cli.output import progress, reporter, track
from perception_encoder.stages import STAGES, ConfiguredRecipe, Stage, configure

DATA = "Class directories, train.tar, `train/*.tar`, or a table of paths and labels or captions; repeat for more."
SHARDS = "WebDataset tars to stream: directory, glob or URL, with :WEIGHT for a mixture; repeat for more."
OUT = "Directory for checkpoints, metrics and weights [default: runs/RECIPE]."

Recipe = Annotated[str, argument("RECIPE", "Name of the recipe; `--list` shows all.")]
ShardPaths = Annotated[list[str] | None, option(SHARDS, "PATH", DATASET)]
Out = Annotated[Path | None, options.out_option(OUT, "DIR")]
Debug = Annotated[bool, flag("--debug", "Run four steps of a tiny model, as a check.")]
Settings = Annotated[bool, flag("--settings", "Print all settings with default and meaning, and exit.")]
Plan = Annotated[bool, flag("--plan", "Print the cost on a cluster and exit.", PLAN)]
Devices = Annotated[int | None, option("Number of devices [default: 8, or the batch if that is smaller].", "N", PLAN)]
Device = Annotated[str, option("Device: h100, a100-80gb, …, or TFLOP/s:GB.", "NAME", PLAN)]
Utilization = Annotated[float, option("Achieved share of the peak FLOP/s.", "SHARE", PLAN, advanced=True)]


def list_option(stages: Sequence[Stage], *default: Any) -> Any:
    """Return the option `--list`, which prints the recipes of some stages and exits; `default`: unless annotated."""

    def show(listing: bool) -> None:
        if listing:
            rows = [(name, trains) for stage in stages for name, (trains, _) in stage.recipes.items()]
            output.print_table(("recipe", "trains"), rows)
            raise typer.Exit(output.OK)

    return typer.Option(*default, "--list", callback=show, is_eager=True, help="List the recipes and exit.")


def train(
    recipe: Recipe,
    data: Annotated[list[Path] | None, option(DATA, "PATH", DATASET)] = None,
    shards: ShardPaths = None,
    out: Out = None,
    set_: options.Overrides = None,
    debug: Debug = False,
    list_: Annotated[bool, list_option(STAGES)] = False,
    settings: Settings = False,
    plan: Plan = False,
    devices: Devices = None,
    device: Device = "h100",
    utilization: Utilization = 0.4,
) -> None:
    """Train a model from a recipe.

    Repeat the command to resume an interrupted run. --set changes a setting: lr, steps, batch_size, and all that
    --settings prints. --data is read into memory: `DIR/CLASS/*.jpg` or `DIR/train/CLASS/*.jpg`; a CSV, TSV, JSONL or
    Parquet file with `path` and `label` or `caption`; or tars of KEY.jpg with KEY.json (`source`, `label`).

    --shards takes a tar, a directory, a glob or a URL (https://…, s3://…), with braces; the tars hold KEY.jpg with
    KEY.txt, KEY.caption or KEY.json. `streams.captions` names the caption fields of the JSON. Needs the extra `train`.

    Examples:

        pe train --list
        pe train finetune --settings
        pe train finetune --data photos/ --data more.csv --set initial=PE-Core-B16-224 --set lora=16
        pe train core_n16 --data photos -o runs/short --set lr=3e-3 --set steps=500 --set batch_size=128
        pe train core_n16 --shards "s3://bucket/web-{0000..0127}.tar:3" --shards photos/train.tar
        pe train core_g14 --plan --devices 512 --device h100
    """
    start(STAGES, recipe, data, shards, out, set_, debug, settings, plan, devices, device, utilization)


def start(
    stages: Sequence[Stage],
    recipe: str,
    data: Sequence[Path] | None,
    shards: Sequence[str] | None,
    out: Path | None,
    overrides: Sequence[str] | None,
    debug: bool,
    settings: bool,
    plan: bool,
    devices: int | None,
    device: str,
    utilization: float,
) -> None:
    """Run, or resume, a recipe of some stages and print how to use the weights; or print its settings or its cost."""
    chosen = configure(recipe, overrides or [], debug, stages)
    if settings:
        return output.print_table(("setting", "default", "meaning"), chosen.settings())
    if plan:
        return _show_plan(chosen, device, devices, utilization)
    _run(chosen, data or [], shards or [], out or Path("runs") / recipe)


def _run(chosen: ConfiguredRecipe, data: Sequence[Path], shards: Sequence[str], out: Path) -> None:
    from perception_encoder.models.memory import keep_freed_memory
    from perception_encoder.training.checkpoint import find_checkpoints

    keep_freed_memory()
    if os.environ.get("RANK", "0") != "0":  # only the first of torchrun's processes prints
        output.console.quiet = True
    else:
        for name in ("training.loop", "training.run", "dense_training.run"):  # they report what is resumed and loaded
            logging.getLogger(f"perception_encoder.{name}").setLevel(logging.INFO)

    def stopped() -> str | None:
        if output.console.quiet:
            return None
        if checkpoints := find_checkpoints(out):
            return f"stopped; rerun the command to resume from step {checkpoints[0][1].step} in {out}"
        return f"stopped before the first checkpoint in {out}; rerun the command to start again"

    with output.interruptible(stopped), progress("training", chosen.config.steps) as advance:
        result = chosen.train(data, shards, out, track, reporter(advance))
    output.print_line(f"weights: {result.weights}")
    if result.best:
        output.print_line(f"weights of the best validated step: {result.best}")
    output.print_line(f"try it: {result.example}")


def _show_plan(chosen: ConfiguredRecipe, device: str, devices: int | None, utilization: float) -> None:
    """Print the cost of a run on a cluster."""
    plan = chosen.plan(device, devices, utilization)
    (total, trained), hours, memory = plan.parameters, plan.hours(), plan.memory()
    output.print_line(f"{total / 1e6:,.1f} million parameters, {trained / 1e6:,.1f} million of them trained")
    rows = [
        (str(phase.image_size), f"{phase.steps:,}", f"{phase.batch_size:,}", f"{phase.flops():.3g}")
        for phase in plan.phases
    ]
    output.print_table(("px", "steps", "batch", "FLOPs per step"), rows)
    output.print_table(("memory per device", "GB"), [(name, f"{size / 1e9:.2f}") for name, size in memory.items()])
    repeated = f" ({plan.executed:.3g} with those repeated to save memory)" if plan.executed > plan.flops else ""
    output.print_line(
        f"{plan.flops:.3g} FLOPs{repeated} on {plan.devices} devices at {100 * plan.utilization:g} % of "
        f"{plan.device.flops / 1e12:g} TFLOP/s: {_rounded(hours)} hours ({_rounded(hours / 24)} days), "
        f"{_rounded(hours * plan.devices)} device-hours"
    )
    used, hint, parallel = sum(memory.values()), "fits", plan.config.parallel
    if used > 0.9 * plan.device.memory:  # the rest is for temporary buffers
        settings = {"checkpointing=true": not parallel.checkpointing, "kind=fsdp": parallel.kind != "fsdp"}
        settings["chunk=N"] = plan.config.chunks and parallel.chunk is None
        advised = [f"--set parallel.{setting}" for setting, helps in settings.items() if helps]
        hint = f"does not fit: a tenth must stay free; use {' or '.join(['more --devices', *advised])}"
    output.print_line(f"{used / 1e9:.1f} of {plan.device.memory / 1e9:g} GB: {hint}")
    if plan.assumed:
        output.print_line(f"assumed: {plan.assumed}")


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


COMMANDS = {"Commands": {"shards": "train:shards", "masks": "train:masks"}}
app = lazy_group(COMMANDS)


@app.callback()
def data() -> None:
    """Make training data.

    Writes WebDataset tars for `pe train`, and caches a mask teacher's output for a spatial alignment.

    Examples:

        pe data shards photos/ -o shards/
        pe data masks --data photos -o masks
    """


def shards(
    source: Annotated[Path, argument("PATH", "A directory, or a table: CSV, TSV, Parquet, JSONL.")],
    out: Annotated[Path, options.out_option("Directory of the shards, new or empty.", "DIR")],
    size: Annotated[str, option("Samples per shard, or a size such as 500MB.", "SIZE")] = "1000",
    side: Annotated[int | None, option("Downscale larger images to this short side, in pixels.", least=16)] = None,
) -> None:
    """Pack images and captions into shards.

    Writes WebDataset tars, DIR/00000.tar and so on. The captions of an image are in a .txt, .caption or .json file of
    the same name (`cup.jpg`, `cup.txt`), or its directory is its label (`cup/1.jpg`); a table has a column of paths and
    one of texts. Samples are shuffled, in the same order every time. Images that cannot be read or have no caption are
    listed and left out; the exit status is then 1.

    Examples:

        pe data shards photos/ -o shards/
        pe data shards captions.parquet -o shards/ --size 500MB --side 256
        pe train core_n16 --shards shards/
    """
    from perception_encoder.data.packing import ShardSize, pack

    summary = pack(source, out, ShardSize.parse(size), side, track)
    output.print_line(f"{summary.samples} pairs in {summary.shards} shards: {out}")
    raise typer.Exit(output.report_skipped(summary.failures, summary.samples + len(summary.failures)))


def masks(
    data: Annotated[list[Path], option("Images: a directory, or one of tars; repeat for more.", "PATH")],
    out: Annotated[Path, options.out_option("Directory of the cache.")],
    recipe: Annotated[str, option("Recipe of the spatial alignment.", "NAME")] = "spatial_builtin",
    set_: options.Overrides = None,
) -> None:
    """Cache a mask teacher's output.

    A slow teacher, such as SAM 2.1, then runs once for each image and augmentation, and not in every epoch. The run
    that uses the cache needs the same seed, image_size, augmentation and copies. An interrupted pass resumes if the
    command is repeated. Needs the extra `spatial`.

    Examples:

        pe data masks --data photos -o masks --set masks=facebook/sam2.1-hiera-large --set copies=2
        pe train spatial_builtin --data photos --set masks=masks --set copies=2
    """
    from perception_encoder.errors import ConfigError
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.run import cache_masks

    _, config = configure(recipe, set_ or [])
    if not isinstance(config, SpatialConfig):
        raise ConfigError(f"{recipe} is not a recipe of spatial alignment; `pe train --list` shows them")
    cached = cache_masks(config, data, out, track)
    output.print_line(f"{cached:,} augmented images: {out}")
