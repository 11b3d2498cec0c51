"""What `pe train --list` and `pe train RECIPE --plan` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.pretraining.plan import Plan
    from perception_encoder.recipes.kinds import RunConfig

FREE = 0.1  # of a device's memory, for what is needed in passing


def show_recipes(wanted: bool) -> None:
    """List the recipes and stop."""
    if wanted:
        from perception_encoder.recipes.catalog import RECIPES

        output.print_table(("recipe", "what it trains"), [(name, each.summary) for name, each in RECIPES.items()])
        raise typer.Exit(output.OK)


def show_plan(config: RunConfig, devices: int, device: str, utilization: float) -> None:
    """Print what a run costs on a cluster."""
    from perception_encoder.models.devices import find_device
    from perception_encoder.pretraining.plan import Cluster
    from perception_encoder.recipes import kinds

    each = find_device(device)
    plan = kinds.plan(config, Cluster(device=each, devices=devices, utilization=utilization))
    _print_stages(plan)
    output.print_table(
        ("memory of a device", "GB"),
        [(name, f"{size / 1e9:.2f}") for name, size in plan.memory.items()],
    )
    hours, used = plan.device_hours(), sum(plan.memory.values())
    output.print_line(
        f"{devices} devices at {100 * utilization:g} % of {each.flops / 1e12:g} TFLOP/s: "
        f"{hours:,.0f} device-hours, {hours / devices / 24:,.1f} days"
    )
    hint = "fits"
    if used > (1 - FREE) * each.memory:
        hint = "does not fit, as a tenth must stay free; more --devices, or --set parallel.checkpointing=true, "
        hint += "parallel.chunk=N, parallel.kind=fsdp"
    output.print_line(f"{used / 1e9:.1f} of {each.memory / 1e9:g} GB: {hint}")


def _print_stages(plan: Plan) -> None:
    rows = [
        (
            str(stage.image_size),
            f"{stage.steps:,}",
            f"{stage.samples / 1e6:,.1f}",
            f"{stage.flops / 1e18:,.1f}",
            f"{stage.executed / 1e18:,.1f}",
            f"{sum(stage.memory.values()) / 1e9:.1f}",
            f"{plan.device_hours(stage):,.0f}",
        )
        for stage in plan.stages
    ]
    totals = [sum(getattr(stage, name) for stage in plan.stages) for name in ("steps", "samples", "flops", "executed")]
    steps, samples, flops, executed = totals
    most = f"{sum(plan.memory.values()) / 1e9:.1f}"
    hours = f"{plan.device_hours():,.0f}"
    rows.append(
        ("all", f"{steps:,}", f"{samples / 1e6:,.1f}", f"{flops / 1e18:,.1f}", f"{executed / 1e18:,.1f}", most, hours)
    )
    columns = ("px", "steps", "million pairs", "EFLOPs", "executed", "GB a device", "device-hours")
    output.print_table(columns, rows, f"{plan.parameters / 1e6:,.0f} million parameters")
