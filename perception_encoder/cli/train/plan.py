"""`pe train --list`, and `pe train RECIPE` with `--settings` or `--plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.planning.cluster import TrainingPlan
    from perception_encoder.train.config import TrainingConfig

FREE = 0.1  # of a device's memory, for temporary buffers


def show_recipes(listing: bool) -> None:
    """List the recipes and stop."""
    if listing:
        from perception_encoder.recipes import RECIPES

        output.print_table(("recipe", "trains"), list(RECIPES.items()))
        raise typer.Exit(output.OK)


def show_settings(config: TrainingConfig) -> None:
    """Print every setting of a configuration, with its value and its meaning."""
    from perception_encoder.train.settings import describe_settings

    rows = [(each.name, each.value, each.meaning) for each in describe_settings(config)]
    output.print_table(("setting", "default", "meaning"), rows)


def show_plan(config: TrainingConfig, devices: int, device: str, utilization: float) -> None:
    """Print the cost of a run on a cluster."""
    from perception_encoder.planning.cluster import Cluster
    from perception_encoder.planning.devices import find_device
    from perception_encoder.recipes import plan_recipe

    each = find_device(device)
    plan = plan_recipe(config, Cluster(device=each, devices=devices, utilization=utilization))
    _print_stages(plan)
    output.print_table(
        ("memory per device", "GB"),
        [(name, f"{size / 1e9:.2f}") for name, size in plan.memory.items()],
    )
    hours, used = plan.device_hours(), sum(plan.memory.values())
    output.print_line(
        f"{devices} devices at {100 * utilization:g} % of {each.flops / 1e12:g} TFLOP/s: "
        f"{_rounded(hours)} device-hours, {_rounded(hours / devices / 24)} days"
    )
    hint = "fits"
    if used > (1 - FREE) * each.memory:
        hint = "does not fit, since a tenth must stay free; use more --devices, or --set parallel.checkpointing=true, "
        hint += "parallel.chunk=N, parallel.kind=fsdp"
    output.print_line(f"{used / 1e9:.1f} of {each.memory / 1e9:g} GB: {hint}")
    if plan.assumed:
        output.print_line(f"assumed: {plan.assumed}")


def _print_stages(plan: TrainingPlan) -> None:
    rows = [
        (
            str(stage.image_size),
            *_counts(stage.steps, stage.samples, stage.flops, stage.executed),
            f"{sum(stage.memory.values()) / 1e9:.1f}",
            _rounded(plan.device_hours(stage)),
        )
        for stage in plan.stages
    ]
    totals = [sum(getattr(stage, name) for stage in plan.stages) for name in ("steps", "samples", "flops", "executed")]
    most = f"{sum(plan.memory.values()) / 1e9:.1f}"
    rows.append(("all", *_counts(*totals), most, _rounded(plan.device_hours())))
    columns = ("px", "steps", "million pairs", "EFLOPs", "executed EFLOPs", "GB per device", "device-hours")
    output.print_table(columns, rows, f"{plan.parameters / 1e6:,.0f} million parameters")


def _counts(steps: int, samples: int, flops: float, executed: float) -> tuple[str, str, str, str]:
    return f"{steps:,}", _rounded(samples / 1e6), _rounded(flops / 1e18), _rounded(executed / 1e18)


def _rounded(value: float) -> str:
    """Format a large value as a whole number, a small one with two digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
