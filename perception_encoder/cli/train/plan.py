"""`pe train --list`, and `pe train RECIPE` with `--settings` or `--plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.training.config import TrainingConfig
    from perception_encoder.training.cost import Phase, TrainingPlan

FREE = 0.1  # of a device's memory, for temporary buffers


def show_recipes(listing: bool) -> None:
    """List the recipes and stop."""
    if listing:
        from perception_encoder.recipes import RECIPES

        output.print_table(("recipe", "trains"), list(RECIPES.items()))
        raise typer.Exit(output.OK)


def show_settings(config: TrainingConfig) -> None:
    """Print every setting of a configuration, with its value and its meaning."""
    from perception_encoder.training.settings import describe_settings

    rows = [(each.name, each.value, each.meaning) for each in describe_settings(config)]
    output.print_table(("setting", "default", "meaning"), rows)


def show_plan(config: TrainingConfig, devices: int | None, device: str, utilization: float) -> None:
    """Print the cost of a run on a cluster."""
    from perception_encoder.pretraining.config import PairConfig
    from perception_encoder.recipes import plan_recipe
    from perception_encoder.training.devices import find_device

    found, devices = find_device(device), min(8, config.batch_size) if devices is None else devices
    plan = plan_recipe(config, found, devices, utilization)
    total, trained = plan.parameters
    output.print_line(f"{total / 1e6:,.1f} million parameters, {trained / 1e6:,.1f} million of them trained")
    rows = [_cells(str(phase.image_size), [phase], plan) for phase in plan.phases]
    rows += [_cells("all", plan.phases, plan)] if len(rows) > 1 else []
    columns = ("px", "steps", "samples", "FLOPs per step", "FLOPs in all", "GB per device", "hours")
    output.print_table(columns, rows)
    memory = plan.memory()
    output.print_table(("memory per device", "GB"), [(name, f"{size / 1e9:.2f}") for name, size in memory.items()])
    hours, used = plan.hours(), sum(memory.values())
    output.print_line(
        f"{devices} devices at {100 * utilization:g} % of {found.flops / 1e12:g} TFLOP/s: "
        f"{_rounded(hours)} hours ({_rounded(hours / 24)} days), {_rounded(hours * devices)} device-hours"
    )
    hint = "fits"
    if used > (1 - FREE) * found.memory:
        hint = "does not fit, since a tenth must stay free; use more --devices, or --set parallel.checkpointing=true, "
        hint += "parallel.kind=fsdp" + (", parallel.chunk=N" if isinstance(config, PairConfig) else "")
    output.print_line(f"{used / 1e9:.1f} of {found.memory / 1e9:g} GB: {hint}")
    if plan.assumed:
        output.print_line(f"assumed: {plan.assumed}")


def _cells(name: str, phases: Sequence[Phase], plan: TrainingPlan) -> tuple[str, ...]:
    steps, samples = sum(each.steps for each in phases), sum(each.steps * each.batch_size for each in phases)
    flops, used = sum(each.steps * each.flops() for each in phases), sum(plan.memory(*phases).values())
    numbers = f"{steps:,}", f"{samples:,}", f"{flops / steps:.3g}", f"{flops:.3g}", f"{used / 1e9:.1f}"
    return name, *numbers, _rounded(plan.hours(*phases))


def _rounded(value: float) -> str:
    """Format a large value as a whole number, a small one with two digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
