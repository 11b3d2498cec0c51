"""List every training stage; define the calls that train by recipe: `pe.train`, `pe.plan`, `pe.list_recipes`.

A stage is a directory with a `STAGE` (`training/stage.py`) and a line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.progress import Track, untracked
from perception_encoder.training.stage import Stage

if TYPE_CHECKING:
    from perception_encoder.data.streams import Shards
    from perception_encoder.training.config import TrainingConfig
    from perception_encoder.training.cost import Device, TrainingPlan
    from perception_encoder.training.metrics import Listener
    from perception_encoder.training.settings import Setting

STAGES = (
    "perception_encoder.pretraining",
    "perception_encoder.language_alignment",
    "perception_encoder.spatial_alignment",
    "perception_encoder.dense_training",
)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run."""

    weights: Path
    """The last weights."""
    best: Path | None
    """The weights of the best validated step, if the run was validated."""
    example: str
    """A command that demonstrates the weights."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with paths as strings."""
        return {name: None if value is None else str(value) for name, value in asdict(self).items()}


def train(
    recipe: str,
    data: str | Path | Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    shards: str | Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    debug: bool = False,
    progress: Track = untracked,
    listener: Listener | None = None,
    **overrides: object,
) -> TrainingResult:
    """Train a model by a recipe, or resume the run in `out`.

    Args:
        recipe: A name of `list_recipes`.
        data: Directories, tables or tars, as `pe train` reads them.
        out: Directory of the run; by default runs/RECIPE.
        shards: Patterns of tars, such as "web/{00000..00099}.tar", read as a stream.
        settings: Changed settings of the recipe by name, as with `--set`.
        debug: Train a small model for four steps, as a check.
        listener: Called with a row of numbers at each report.
        **overrides: Changed settings whose name has no dot.

    Raises:
        ConfigError: The recipe or a setting is unknown.
        DataError: The data cannot be used.
        CheckpointError: `out` holds another run.
        OutputError: Another process trains in `out`, or it cannot be written.

    Examples:
        >>> pe.train("finetune", data="pairs.parquet", out="runs/mine", initial="PE-Core-B16-224", lora=16)
        >>> pe.train("core_n16", data=["photos/", "more.csv"], settings={"optimizer.lr": 3e-3}, steps=500)
    """
    chosen = configure(recipe, {**(settings or {}), **overrides}, debug)
    paths = [data] if isinstance(data, str | Path) else data
    locations = [shards] if isinstance(shards, str) else shards
    return chosen.train(paths, locations, Path(out or Path("runs") / recipe), progress, listener)


def plan(
    recipe: str,
    *,
    devices: int | None = None,
    device: str = "h100",
    utilization: float = 0.4,
    settings: Mapping[str, object] | None = None,
    debug: bool = False,
    **overrides: object,
) -> TrainingPlan:
    """Return the cost of a recipe on a cluster, before running it: operations, memory per device and hours, by phase.

    Args:
        recipe: A name of `list_recipes`.
        devices: By default 8, or the batch if that is smaller.
        device: A name such as "h100", or "TFLOP/s:GB".
        utilization: Achieved share of the device's peak.
        settings, debug, **overrides: See `pe.train`.

    Raises:
        ConfigError: The recipe, a setting or the device is unknown, or the batch is smaller than the number of devices.

    Examples:
        >>> print(pe.plan("core_t16", devices=64, device="h100").hours())
    """
    return configure(recipe, {**(settings or {}), **overrides}, debug).plan(device, devices, utilization)


def list_recipes() -> dict[str, str]:
    """Return what each recipe trains, by its name.

    Examples:
        >>> for recipe, trains in pe.list_recipes().items():
        ...     print(recipe, trains)
    """
    return {name: trains for stage in all_stages() for name, (trains, _) in stage.recipes.items()}


@cache
def all_stages() -> tuple[Stage, ...]:
    """Return all stages of this package, without importing torch."""
    return tuple(import_module(module).STAGE for module in STAGES)


class ConfiguredRecipe(NamedTuple):
    """A recipe with its settings: what a run of its stage trains."""

    stage: Stage
    config: TrainingConfig

    def settings(self) -> list[Setting]:
        """Return all settings with their values and meanings."""
        from perception_encoder.training.settings import describe_settings

        return describe_settings(self.config)

    def plan(self, device: str | Device, devices: int | None = None, utilization: float = 0.4) -> TrainingPlan:
        """Return the cost of a run; see `plan`."""
        from perception_encoder.training.cost import TrainingPlan, find_device

        device = find_device(device) if isinstance(device, str) else device
        devices = min(8, self.config.batch_size) if devices is None else devices
        phases, assumed = self.stage.plan(self.config, devices)
        return TrainingPlan(self.config, phases, assumed, device, devices, utilization)

    def train(
        self,
        data: Sequence[str | Path],
        shards: Sequence[str],
        out: Path,
        progress: Track = untracked,
        listener: Listener | None = None,
    ) -> TrainingResult:
        """Run or resume; see `train`."""
        from perception_encoder.data.streams import Shards
        from perception_encoder.datasets.training_files import LAYOUTS
        from perception_encoder.training.checkpoint import BEST

        datasets: list[Path | Shards] = [*map(Path, data), *map(Shards.parse, shards)]
        if not datasets:
            raise DataError(f"no data: give --data or --shards; {LAYOUTS}")
        if shards and not self.stage.streams:
            name = self.stage.name
            raise ConfigError(f"{name} training reads --data, not --shards; a directory of tars is --data, too")
        weights = self.stage.run(self.config, datasets, out, progress, listener)
        best = weights.with_name(BEST)
        return TrainingResult(weights, best if best.exists() else None, self.config.example.format(weights=weights))


def configure(
    recipe: str,
    settings: Sequence[str] | Mapping[str, object] = (),
    debug: bool = False,
    stages: Sequence[Stage] | None = None,
) -> ConfiguredRecipe:
    """Return a recipe with changed settings; ConfigError shows near matches. `stages`: by default all."""
    stages = all_stages() if stages is None else stages
    for stage in stages:
        if recipe in stage.recipes:
            from perception_encoder.training.settings import override

            config = stage.recipes[recipe][1]()
            return ConfiguredRecipe(stage, override(stage.debug(config) if debug else config, settings))
    names = [name for stage in stages for name in stage.recipes]
    near = difflib.get_close_matches(recipe, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
    raise ConfigError(f"no recipe is called {recipe!r}; {hint}")
