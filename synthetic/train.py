"""`python -m synthetic.train`: train a built-in model by its recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from perception_encoder.cli.options import DATASET, Overrides, option
from perception_encoder.cli.train import (
    Debug,
    Device,
    Devices,
    Out,
    Plan,
    Recipe,
    Settings,
    ShardPaths,
    Utilization,
    list_option,
    start,
)
from perception_encoder.stages import Stage
from synthetic.builtin.recipes import STAGES
from synthetic.command_line import run_command

DATA = "Directory of labelled photographs, of rendered scenes, or a file of conversations; repeat for more."
HELP = """Train a built-in model.

    As `pe train`, but what the built-in models are never trained on is left out of the data, and tars of rendered
    scenes are conversations for a language model.

    Examples:

        python -m synthetic.train builtin --data photos --data datasets
        torchrun --nproc-per-node=2 -m synthetic.train builtin_second --data photos --data datasets
        python -m synthetic.train language_builtin --data scenes --data receipts.jsonl --data photographs
    """


def train_command(stages: Sequence[Stage], text: str) -> Callable[..., None]:
    """Return a command that is `pe train` with the recipes of other stages; `text` is its help."""

    def train(
        recipe: Recipe,
        data: Annotated[list[Path] | None, option(DATA, "PATH", DATASET)] = None,
        shards: ShardPaths = None,
        out: Out = None,
        set_: Overrides = None,
        debug: Debug = False,
        list_: bool = list_option(stages, False),
        settings: Settings = False,
        plan: Plan = False,
        devices: Devices = None,
        device: Device = "h100",
        utilization: Utilization = 0.4,
    ) -> None:
        start(stages, recipe, data, shards, out, set_, debug, settings, plan, devices, device, utilization)

    train.__doc__ = text
    return train


if __name__ == "__main__":
    run_command("synthetic.train", train_command(STAGES, HELP))
