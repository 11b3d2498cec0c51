"""The training stages with their recipes, and the calls that train by recipe: `pe.train`, `pe.plan`, `pe.list_recipes`.

What needs torch is imported when it is called, so that recipes are listed quickly.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.progress import Track, untracked

if TYPE_CHECKING:
    from perception_encoder.data.streams import Shards
    from perception_encoder.training.config import TrainingConfig
    from perception_encoder.training.cost import Device, Phase, TrainingPlan
    from perception_encoder.training.metrics import Listener
    from perception_encoder.training.settings import Setting

Recipes = Mapping[str, tuple[str, Callable[[], "TrainingConfig"]]]
"""By name: a line that says what the recipe trains, and a function that returns its complete configuration."""


@dataclass(frozen=True)
class Stage:
    """A kind of training with its recipes."""

    name: str
    recipes: Recipes
    run: Callable[..., Path]
    """`run(config, data, out, track, listener)` trains or resumes in a directory, and returns the weights."""
    plan: Callable[[Any, int], tuple[list[Phase], str]]
    """`plan(config, devices)` returns the phases of a run and its assumptions."""
    debug: Callable[[Any], TrainingConfig]  # returns the same run as a check: four steps of a small model
    streams: bool = False  # whether the stage also reads shards


_Rows = Mapping[str, tuple[Any, ...]]
"""By recipe: what it trains, the name of its function in the package's `recipes`, and its arguments."""


def _stage(name: str, package: str, rows: _Rows, run: str, plan: str, debug: str, streams: bool = False) -> Stage:
    """Return the stage of a package; `run`: a function's name in its run.py, `plan` and `debug`: in its recipes.py."""

    def recipe(function: str, *arguments: object) -> Callable[..., Any]:
        return partial(_call, f"{package}.recipes.{function}", *arguments)

    recipes = {key: (trains, recipe(*function)) for key, (trains, *function) in rows.items()}
    return Stage(name, recipes, partial(_call, f"{package}.run.{run}"), recipe(plan), recipe(debug), streams)


def _call(path: str, *arguments: object) -> Any:
    """Call a function of this package, importing its module first: most import torch, which takes seconds."""
    module, _, function = path.rpartition(".")
    return getattr(import_module(f"perception_encoder.{module}"), function)(*arguments)


_PAIRS: _Rows = {
    "core_n16": ("PE-Core-N, the size of the built-in model, on your pairs: two hours on 2 cores", "core_n16"),
    "core_t16": ("PE-Core-T: 58 billion pairs", "core", "t16"),
    "core_s16": ("PE-Core-S: 58 billion pairs", "core", "s16"),
    "core_b16": ("PE-Core-B: 58 billion pairs", "core", "b16"),
    "core_l14": ("PE-Core-L: 58 billion pairs", "core", "l14"),
    "core_g14": ("PE-Core-G: 86 billion pairs", "core", "g14"),
    "core_t16_cooldown": ("PE-Core-T, cooldown: 50 million pairs", "cooldown", "t16"),
    "core_s16_cooldown": ("PE-Core-S, cooldown: 50 million pairs", "cooldown", "s16"),
    "core_b16_cooldown": ("PE-Core-B, cooldown: 50 million pairs", "cooldown", "b16"),
    "core_l14_cooldown": ("PE-Core-L, cooldown: 50 million pairs", "cooldown", "l14"),
    "core_g14_cooldown": ("PE-Core-G, cooldown: 50 million pairs", "cooldown", "g14"),
    "video_finetune_t16": ("PE-Core-T, video finetuning: 22 million videos", "video_finetune", "t16"),
    "video_finetune_s16": ("PE-Core-S, video finetuning: 22 million videos", "video_finetune", "s16"),
    "video_finetune_b16": ("PE-Core-B, video finetuning: 22 million videos", "video_finetune", "b16"),
    "video_finetune_l14": ("PE-Core-L, video finetuning: 22 million videos", "video_finetune", "l14"),
    "video_finetune_g14": ("PE-Core-G, video finetuning: 22 million videos", "video_finetune", "g14"),
    "video_finetune_builtin": ("the built-in model on a thousand clips: ten minutes", "video_finetune_builtin"),
    "distill_l14": ("PE-Core-G into PE-Core-L: 4.4 billion pairs", "distill_core", "l14"),
    "distill_b16": ("PE-Core-G into PE-Core-B: 4.4 billion pairs", "distill_core", "b16"),
    "distill_s16": ("PE-Core-G into PE-Core-S: 4.4 billion pairs", "distill_core", "s16"),
    "distill_t16": ("PE-Core-G into PE-Core-T: 4.4 billion pairs", "distill_core", "t16"),
    "distill_builtin": ("a model, --set teacher=…, into the built-in one", "distill_builtin"),
    "finetune": ("weights, --set initial=…, on your pairs", "finetune"),
}
_LANGUAGE: _Rows = {
    "language_g14_warmup": ("PLM, stage 1, on PE-Core-G: the projector, 4 million samples", "warmup", "g14"),
    "language_l14_warmup": ("PLM, stage 1, on PE-Core-L: the projector, 4 million samples", "warmup", "l14"),
    "language_g14": ("PE-Lang-G with tiles (PLM, stage 2): everything, 72 million samples", "alignment", "g14"),
    "language_l14": ("PE-Lang-L with tiles (PLM, stage 2): everything, 72 million samples", "alignment", "l14"),
    "language_g14_untiled": ("PE-Lang-G without tiles: everything, 72 million samples", "untiled", "g14"),
    "language_l14_untiled": ("PE-Lang-L without tiles: everything, 72 million samples", "untiled", "l14"),
    "language_g14_stage3": ("PLM, stage 3, on PE-Lang-G: 36 tiles, 32 frames, 22 million", "third_stage", "g14"),
    "language_l14_stage3": ("PLM, stage 3, on PE-Lang-L: 36 tiles, 32 frames, 22 million", "third_stage", "l14"),
    "language_g14_frozen_llama_warmup": ("PE-Core-G, Llama-3.1-8B: the projector", "frozen_warmup", "g14", "llama"),
    "language_l14_frozen_llama_warmup": ("PE-Core-L, Llama-3.1-8B: the projector", "frozen_warmup", "l14", "llama"),
    "language_g14_frozen_llama": ("PE-Core-G, frozen, Llama-3.1-8B: the benchmark", "frozen", "g14", "llama"),
    "language_l14_frozen_llama": ("PE-Core-L, frozen, Llama-3.1-8B: the benchmark", "frozen", "l14", "llama"),
    "language_g14_frozen_qwen_warmup": ("PE-Core-G, Qwen2.5-7B: the projector", "frozen_warmup", "g14", "qwen"),
    "language_l14_frozen_qwen_warmup": ("PE-Core-L, Qwen2.5-7B: the projector", "frozen_warmup", "l14", "qwen"),
    "language_g14_frozen_qwen": ("PE-Core-G, frozen, Qwen2.5-7B: the benchmark", "frozen", "g14", "qwen"),
    "language_l14_frozen_qwen": ("PE-Core-L, frozen, Qwen2.5-7B: the benchmark", "frozen", "l14", "qwen"),
    "language_custom": ("PE-Core-L and SmolLM2-1.7B by LoRA on your questions", "custom_questions"),
}
_SPATIAL: _Rows = {
    "spatial_builtin": ("the built-in model on your images with masks: half an hour on 2 cores", "spatial_builtin"),
    "spatial_g14": ("PE-Spatial-G: PE-Core-G, its own layer 40 (from 0) and SAM 2.1, 300 million images", "spatial_g"),
    "spatial_l14": ("PE-Spatial-G into PE-Spatial-L, 300 million images", "distill_spatial", "l14"),
    "spatial_b16": ("PE-Spatial-G into PE-Spatial-B, 300 million images", "distill_spatial", "b16"),
    "spatial_s16": ("PE-Spatial-G into PE-Spatial-S, 300 million images", "distill_spatial", "s16"),
    "spatial_t16": ("PE-Spatial-G into PE-Spatial-T, 300 million images", "distill_spatial", "t16"),
}
_DENSE: _Rows = {
    "depth": ("a depth head on your images with depth", "depth_estimator"),
    "segmenter": ("a segmentation head on your images with masks of classes", "segmenter"),
    "detector": ("a detector on your images with boxes, in COCO's format", "detector"),
    "detr": ("a deformable DETR on your images with boxes, in COCO's format", "deformable_detr"),
    "detector_core_g14": ("Mask R-CNN, PE-Core-G finetuned: COCO, 75 epochs", "vitdet", "core_g14"),
    "detector_spatial_g14": ("Mask R-CNN, PE-Spatial-G finetuned: COCO, 36 epochs", "vitdet", "spatial_g14"),
    "detector_core_l14": ("Mask R-CNN, PE-Core-L finetuned: COCO, 100 epochs", "vitdet", "core_l14"),
    "detector_spatial_l14": ("Mask R-CNN, PE-Spatial-L finetuned: COCO, 100 epochs", "vitdet", "spatial_l14"),
    "detector_core_g14_lvis": ("Mask R-CNN, PE-Core-G finetuned: LVIS, 75 epochs", "vitdet_lvis", "core_g14"),
    "detector_spatial_g14_lvis": ("Mask R-CNN, PE-Spatial-G finetuned: LVIS, 75 epochs", "vitdet_lvis", "spatial_g14"),
    "detr_spatial_g14_1": ("DETA's detector on PE-Spatial-G, 1: Objects365 at 1024 px", "deta", 1),
    "detr_spatial_g14_2": ("DETA's detector on PE-Spatial-G, 2: Objects365 at 1536 px", "deta", 2),
    "detr_spatial_g14_3": ("DETA's detector on PE-Spatial-G, 3: COCO at 1728 px", "deta", 3),
    "detr_spatial_g14_4": ("DETA's detector on PE-Spatial-G, 4: COCO at 1824 px", "deta", 4),
    "detector_core_g14_frozen": ("Mask R-CNN, PE-Core-G frozen: COCO, 15 epochs", "frozen_vitdet", "core_g14"),
    "detector_spatial_g14_frozen": ("Mask R-CNN, PE-Spatial-G frozen: COCO, 15 epochs", "frozen_vitdet", "spatial_g14"),
    "detector_core_l14_frozen": ("Mask R-CNN, PE-Core-L frozen: COCO, 15 epochs", "frozen_vitdet", "core_l14"),
    "detector_spatial_l14_frozen": ("Mask R-CNN, PE-Spatial-L frozen: COCO, 15 epochs", "frozen_vitdet", "spatial_l14"),
}
PRETRAINING = _stage(
    "contrastive", "pretraining", _PAIRS, "pretrain", "plan_pretraining", "debug_pretraining", streams=True
)
LANGUAGE_ALIGNMENT = _stage(
    "language", "language_alignment", _LANGUAGE, "align_language", "plan_language", "debug_language"
)
SPATIAL_ALIGNMENT = _stage("spatial", "spatial_alignment", _SPATIAL, "align_spatially", "plan_spatial", "debug_spatial")
DENSE_TRAINING = _stage("dense", "dense_training", _DENSE, "train_dense", "plan_dense", "debug_dense")
STAGES = (PRETRAINING, LANGUAGE_ALIGNMENT, SPATIAL_ALIGNMENT, DENSE_TRAINING)


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
    return {name: trains for stage in STAGES for name, (trains, _) in stage.recipes.items()}


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
    stages: Sequence[Stage] = STAGES,
) -> ConfiguredRecipe:
    """Return a recipe with changed settings; ConfigError shows near matches."""
    for stage in stages:
        if recipe in stage.recipes:
            from perception_encoder.training.settings import override

            config = stage.recipes[recipe][1]()
            return ConfiguredRecipe(stage, override(stage.debug(config) if debug else config, settings))
    names = [name for stage in stages for name in stage.recipes]
    near = difflib.get_close_matches(recipe, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
    raise ConfigError(f"no recipe is called {recipe!r}; {hint}")
