"""Every recipe by name, what can be done with one, and `--set`, which changes its settings.

Stages are imported when a recipe is looked up: torch takes seconds, and `pe train --list` needs none of it.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.progress import Track, untracked

if TYPE_CHECKING:
    from perception_encoder.data.streams import Shards
    from perception_encoder.training.config import TrainingConfig
    from perception_encoder.training.cost import TrainingPlan
    from perception_encoder.training.devices import Device
    from perception_encoder.training.metrics import Listener

Config = TypeVar("Config")

RECIPES: dict[str, str] = {
    "core_n16": "PE-Core-N, the size of the built-in model, on your own pairs: two hours on 2 cores",
    "core_t16": "PE-Core-T: 58 billion pairs",
    "core_s16": "PE-Core-S: 58 billion pairs",
    "core_b16": "PE-Core-B: 58 billion pairs",
    "core_l14": "PE-Core-L: 58 billion pairs",
    "core_g14": "PE-Core-G: 86 billion pairs",
    "core_t16_cooldown": "PE-Core-T, cooldown: 50 million pairs",
    "core_s16_cooldown": "PE-Core-S, cooldown: 50 million pairs",
    "core_b16_cooldown": "PE-Core-B, cooldown: 50 million pairs",
    "core_l14_cooldown": "PE-Core-L, cooldown: 50 million pairs",
    "core_g14_cooldown": "PE-Core-G, cooldown: 50 million pairs",
    "video_finetune_t16": "PE-Core-T, video finetuning: 22 million videos",
    "video_finetune_s16": "PE-Core-S, video finetuning: 22 million videos",
    "video_finetune_b16": "PE-Core-B, video finetuning: 22 million videos",
    "video_finetune_l14": "PE-Core-L, video finetuning: 22 million videos",
    "video_finetune_g14": "PE-Core-G, video finetuning: 22 million videos",
    "video_finetune_builtin": "the built-in model on a thousand clips: ten minutes",
    "ablation_1": "ViT-L/14, step 1: the CLIP baseline",
    "ablation_2": "ViT-L/14, steps 1 to 2: progressive resolution",
    "ablation_3": "ViT-L/14, steps 1 to 3: twice the batch and the pairs",
    "ablation_4": "ViT-L/14, steps 1 to 4: LAMB",
    "ablation_5": "ViT-L/14, steps 1 to 5: a stage at 336 px",
    "ablation_6": "ViT-L/14, steps 1 to 6: 2D RoPE",
    "ablation_7": "ViT-L/14, steps 1 to 7: attention pooling",
    "ablation_8": "ViT-L/14, steps 1 to 8: augmentation",
    "ablation_9": "ViT-L/14, steps 1 to 9: mask regularisation",
    "vanilla_s14": "ViT-S/14: the CLIP baseline (Fig. 3)",
    "full_s14": "ViT-S/14: all nine steps (Fig. 3)",
    "vanilla_b14": "ViT-B/14: the CLIP baseline (Fig. 3)",
    "full_b14": "ViT-B/14: all nine steps (Fig. 3)",
    "vanilla_l14_120k": "ViT-L/14: CLIP (Fig. 4)",
    "full_l14_120k": "ViT-L/14: all nine (Fig. 4)",
    "vanilla_l14_240k": "ViT-L/14: CLIP (Fig. 4)",
    "full_l14_240k": "ViT-L/14: all nine (Fig. 4)",
    "vanilla_l14_360k": "ViT-L/14: CLIP (Figs. 3, 4)",
    "full_l14_360k": "ViT-L/14: all nine (Figs. 3, 4)",
    "distill_l14": "PE-Core-G into PE-Core-L: 4.4 billion pairs",
    "distill_b16": "PE-Core-G into PE-Core-B: 4.4 billion pairs",
    "distill_s16": "PE-Core-G into PE-Core-S: 4.4 billion pairs",
    "distill_t16": "PE-Core-G into PE-Core-T: 4.4 billion pairs",
    "distill_builtin": "a model, --set teacher=…, into the built-in one",
    "finetune": "weights, --set initial=…, on your own pairs",
    "language_g14_warmup": "PLM, stage 1, on PE-Core-G: the projector, 4 million samples",
    "language_l14_warmup": "PLM, stage 1, on PE-Core-L: the projector, 4 million samples",
    "language_g14": "PE-Lang-G with tiles (PLM, stage 2): everything, 72 million samples",
    "language_l14": "PE-Lang-L with tiles (PLM, stage 2): everything, 72 million samples",
    "language_g14_untiled": "PE-Lang-G without tiles: everything, 72 million samples",
    "language_l14_untiled": "PE-Lang-L without tiles: everything, 72 million samples",
    "language_g14_stage3": "PLM, stage 3, on PE-Lang-G: 36 tiles, 32 frames, 22 million samples",
    "language_l14_stage3": "PLM, stage 3, on PE-Lang-L: 36 tiles, 32 frames, 22 million samples",
    "language_g14_frozen_llama_warmup": "PE-Core-G, frozen, Llama-3.1-8B: the projector, 1 million samples",
    "language_l14_frozen_llama_warmup": "PE-Core-L, frozen, Llama-3.1-8B: the projector, 1 million samples",
    "language_g14_frozen_llama": "PE-Core-G, frozen, Llama-3.1-8B: the benchmark, 3 million samples",
    "language_l14_frozen_llama": "PE-Core-L, frozen, Llama-3.1-8B: the benchmark, 3 million samples",
    "language_g14_frozen_qwen_warmup": "PE-Core-G, frozen, Qwen2.5-7B: the projector, 1 million samples",
    "language_l14_frozen_qwen_warmup": "PE-Core-L, frozen, Qwen2.5-7B: the projector, 1 million samples",
    "language_g14_frozen_qwen": "PE-Core-G, frozen, Qwen2.5-7B: the benchmark, 3 million samples",
    "language_l14_frozen_qwen": "PE-Core-L, frozen, Qwen2.5-7B: the benchmark, 3 million samples",
    "language_own": "PE-Core-L and SmolLM2-1.7B by LoRA on your own questions",
    "spatial_builtin": "the built-in model on your own images with masks: half an hour on 2 cores",
    "spatial_g14": "PE-Spatial-G: PE-Core-G, its own layer 41 and SAM 2.1, 300 million images",
    "spatial_l14": "PE-Spatial-G into PE-Spatial-L, 300 million images",
    "spatial_b16": "PE-Spatial-G into PE-Spatial-B, 300 million images",
    "spatial_s16": "PE-Spatial-G into PE-Spatial-S, 300 million images",
    "spatial_t16": "PE-Spatial-G into PE-Spatial-T, 300 million images",
    "depth": "a depth head on your own images with depth",
    "segmenter": "a segmentation head on your own images with masks of classes",
    "detector": "a detector on your own images with boxes, in COCO's format",
    "detr": "a deformable DETR on your own images with boxes, in COCO's format",
    "detector_core_g14": "Mask R-CNN on PE-Core-G, finetuned: COCO, 75 epochs",
    "detector_spatial_g14": "Mask R-CNN on PE-Spatial-G, finetuned: COCO, 36 epochs",
    "detector_core_l14": "Mask R-CNN on PE-Core-L, finetuned: COCO, 100 epochs",
    "detector_spatial_l14": "Mask R-CNN on PE-Spatial-L, finetuned: COCO, 100 epochs",
    "detector_core_g14_lvis": "Mask R-CNN on PE-Core-G, finetuned: LVIS, 75 epochs",
    "detector_spatial_g14_lvis": "Mask R-CNN on PE-Spatial-G, finetuned: LVIS, 36 epochs",
    "detr_spatial_g14_1": "DETA's detector on PE-Spatial-G, 1: Objects365 at 1024 px",
    "detr_spatial_g14_2": "DETA's detector on PE-Spatial-G, 2: Objects365 at 1536 px",
    "detr_spatial_g14_3": "DETA's detector on PE-Spatial-G, 3: COCO at 1728 px",
    "detr_spatial_g14_4": "DETA's detector on PE-Spatial-G, 4: COCO at 1824 px",
    "detector_core_g14_frozen": "Mask R-CNN on PE-Core-G, frozen: COCO, 15 epochs",
    "detector_spatial_g14_frozen": "Mask R-CNN on PE-Spatial-G, frozen: COCO, 15 epochs",
    "detector_core_l14_frozen": "Mask R-CNN on PE-Core-L, frozen: COCO, 15 epochs",
    "detector_spatial_l14_frozen": "Mask R-CNN on PE-Spatial-L, frozen: COCO, 15 epochs",
}
"""What each recipe trains, for the list; `find_recipe` has their configurations."""


def find_recipe(name: str) -> TrainingConfig:  # noqa: C901, PLR0912 - goes with the table of stages
    """Return the configuration of a recipe; ConfigError shows near matches."""
    from perception_encoder.dense_training.recipes import head_recipe
    from perception_encoder.distillation.recipes import distill_builtin, distill_core
    from perception_encoder.finetuning.recipes import own_pairs
    from perception_encoder.language_alignment.recipes import (
        alignment,
        frozen,
        frozen_warmup,
        own_questions,
        third_stage,
        untiled,
        warmup,
    )
    from perception_encoder.pretraining.recipes import LAST_STEP, ablation, cooldown, core, core_n16, scaling
    from perception_encoder.spatial_alignment.recipes import spatial_recipe
    from perception_encoder.video_finetuning.recipes import video_finetune, video_finetune_builtin

    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    match name.split("_"):
        case ["core", "n16"]:
            return core_n16()
        case ["core", size]:
            return core(size)
        case ["core", size, "cooldown"]:
            return cooldown(size)
        case ["video", "finetune", "builtin"]:
            return video_finetune_builtin()
        case ["video", "finetune", size]:
            return video_finetune(size)
        case ["ablation", step]:
            return ablation(int(step))
        case ["vanilla" | "full" as curve, size, *length]:
            thousands = int(length[0].removesuffix("k")) if length else 360
            return scaling(1 if curve == "vanilla" else LAST_STEP, size, 1000 * thousands)
        case ["distill", "builtin"]:
            return distill_builtin()
        case ["distill", size]:
            return distill_core(size)
        case ["finetune"]:
            return own_pairs()
        case ["language", "own"]:
            return own_questions()
        case ["spatial", size]:
            return spatial_recipe(size)
        case ["depth" | "segmenter" | "detector" | "detr" as task, *rest]:
            return head_recipe(task, rest)
        case ["language", size]:
            return alignment(size)
        case ["language", size, "warmup"]:
            return warmup(size)
        case ["language", size, "untiled"]:
            return untiled(size)
        case ["language", size, "stage3"]:
            return third_stage(size)
        case ["language", size, "frozen", decoder]:
            return frozen(size, decoder)
        case ["language", size, "frozen", decoder, "warmup"]:
            return frozen_warmup(size, decoder)
    raise AssertionError(f"{name} has no configuration")


def run_recipe(
    config: TrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, a configuration on directories or shards; return the weights that it wrote."""
    from perception_encoder.dense_training.config import DenseConfig
    from perception_encoder.dense_training.run import train_dense
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.run import distill
    from perception_encoder.language_alignment.config import LanguageConfig
    from perception_encoder.language_alignment.run import align_language
    from perception_encoder.pretraining.config import PairConfig
    from perception_encoder.pretraining.run import pretrain
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.run import align_spatially

    match config:
        case LanguageConfig():
            return align_language(config, paths_of(data), out, track, listener)
        case SpatialConfig():
            return align_spatially(config, paths_of(data), out, track, listener)
        case DenseConfig():
            return train_dense(config, paths_of(data), out, track, listener)
        case DistillationConfig():
            return distill(config, data, out, track, listener)
        case PairConfig():  # pretraining, finetuning and video finetuning
            return pretrain(config, data, out, track, listener)
    raise _unknown(config)


def debug_form(config: TrainingConfig) -> TrainingConfig:
    """Return the same run in four steps of a small model, to see that all works."""
    from perception_encoder.dense_training.config import DenseConfig
    from perception_encoder.dense_training.recipes import debug_dense
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.recipes import debug_distillation
    from perception_encoder.finetuning.config import FinetuningConfig
    from perception_encoder.finetuning.recipes import debug_finetuning
    from perception_encoder.language_alignment.config import LanguageConfig
    from perception_encoder.language_alignment.recipes import debug_language
    from perception_encoder.pretraining.config import PretrainingConfig
    from perception_encoder.pretraining.recipes import debug_pretraining
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.recipes import debug_spatial

    match config:
        case LanguageConfig():
            return debug_language(config)
        case SpatialConfig():
            return debug_spatial(config)
        case DenseConfig():
            return debug_dense(config)
        case FinetuningConfig():
            return debug_finetuning(config)
        case DistillationConfig():
            return debug_distillation(config)
        case PretrainingConfig():
            return debug_pretraining(config)
    raise _unknown(config)


def plan_recipe(config: TrainingConfig, device: Device, devices: int, utilization: float = 0.4) -> TrainingPlan:
    """Return what a run costs; ConfigError if a batch has fewer samples than there are devices.

    `utilization`: share of the device's peak that is reached.
    """
    from perception_encoder.dense_training.config import DenseConfig
    from perception_encoder.dense_training.plan import plan_dense
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.plan import plan_distillation
    from perception_encoder.language_alignment.config import LanguageConfig
    from perception_encoder.language_alignment.plan import plan_language
    from perception_encoder.pretraining.config import PairConfig
    from perception_encoder.pretraining.plan import plan_pretraining
    from perception_encoder.spatial_alignment.config import SpatialConfig
    from perception_encoder.spatial_alignment.plan import plan_spatial
    from perception_encoder.training.cost import TrainingPlan

    match config:
        case LanguageConfig():
            phases, assumed = plan_language(config, devices)
        case SpatialConfig():
            phases, assumed = plan_spatial(config, devices)
        case DenseConfig():
            phases, assumed = plan_dense(config, devices)
        case DistillationConfig():
            phases, assumed = plan_distillation(config, devices)
        case PairConfig():
            phases, assumed = plan_pretraining(config.pretraining(), devices)
        case _:
            raise _unknown(config)
    if not isinstance(config, PairConfig):  # the other stages have no micro-batches
        config = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, chunk=None))
    return TrainingPlan(config, phases, assumed, device, devices, utilization)


def paths_of(data: Sequence[Path | Shards]) -> list[Path]:
    """The data of a stage that reads files and directories; ConfigError for shards."""
    paths = [each for each in data if isinstance(each, Path)]
    if len(paths) < len(data):
        raise ConfigError("an alignment reads --data, not --shards; a directory of tars is --data, too")
    return paths


def _unknown(config: TrainingConfig) -> ConfigError:
    return ConfigError(f"{type(config).__name__} is not a configuration of a stage")


def override(config: Config, settings: Sequence[str]) -> Config:
    """Return a copy of a (frozen, nested) dataclass with settings changed.

    A name leads into dataclasses by field, into tuples by number (from 0) and into mappings by key:
    "optimizer.lr=1e-3", "stages.0.steps=100", "weights.flowers=0.2"; `null` is None if that is allowed, and a
    setting inside of what is None begins with its defaults. "lr" and "steps" are the peak rate and the steps of a whole
    run in every recipe; a run in stages shares its steps out as before. A JSON object replaces a whole mapping:
    'streams.captions={"alt_text": 1}'; lists of texts are JSON too, or separated by commas. Raises ConfigError for a
    name that does not exist (near matches shown), or a value of another type or out of range.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write name=value")
        names, text = path.strip().split("."), text.strip()
        try:
            if names == ["steps"] and not _has_field(config, "steps") and hasattr(config, "stages"):
                config = _with_steps(config, _parse(0, int, text))
            else:
                shortcut = names == ["lr"] and not _has_field(config, "lr")
                config = _replace(config, type(config), ["optimizer", "lr"] if shortcut else names, text)
        except ConfigError as error:
            raise ConfigError(f"--set {setting}: {error}") from None
    return config


def _has_field(config: Any, name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(config)}


def _with_steps(config: Any, steps: int) -> Any:
    """Return a run in stages with so many steps in all, shared out as they were."""
    stages, whole = config.stages, sum(stage.steps for stage in config.stages)
    if steps < len(stages):
        raise ConfigError(f"steps is {steps}; the run has {len(stages)} stages of at least one step each")
    ends = [0]
    for number, stage in enumerate(stages, 1):
        wanted = ends[-1] + max(1, round(steps * stage.steps / whole))
        ends.append(min(wanted, steps - (len(stages) - number)) if number < len(stages) else steps)
    shares = (end - start for start, end in itertools.pairwise(ends))
    return dataclasses.replace(
        config, stages=tuple(dataclasses.replace(stage, steps=own) for stage, own in zip(stages, shares, strict=True))
    )


def _replace(old: Any, kind: Any, path: Sequence[str], text: str) -> Any:
    """Return `old`, which is declared as `kind`, with what `path` leads to replaced by the value in `text`."""
    if not path:
        return _parse(old, kind, text)
    name, rest = path[0], path[1:]
    if old is None:  # what was off is turned on by any setting of it
        classes = [each for each in typing.get_args(kind) if isinstance(each, type) and dataclasses.is_dataclass(each)]
        old = classes[0]() if classes else None
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        kinds = typing.get_type_hints(type(old))
        _check(name, [field.name for field in dataclasses.fields(old)])
        return dataclasses.replace(old, **{name: _replace(getattr(old, name), kinds[name], rest, text)})
    if isinstance(old, Mapping):
        _check(name, old)
        return {**old, name: _replace(old[name], type(old[name]), rest, text)}
    if isinstance(old, tuple):
        _check(name, map(str, range(len(old))))
        at = int(name)
        return (*old[:at], _replace(old[at], type(old[at]), rest, text), *old[at + 1 :])
    raise ConfigError(f"{name} is inside a value that has no settings")


def _check(name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"no setting is called {name}; {hint}")


def _parse(old: Any, kind: Any, text: str) -> Any:
    """Parse a value of `kind`: number, text, true/false, null, or a JSON list or object; texts may lack quotes."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if text == "null" and types.NoneType in kinds:
        return None
    if str in kinds:
        return text
    if tuple[str, ...] in kinds and not text.startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(f"{text!r} is not of type {_type_name(kinds)}") from None
    return _convert(old, kinds, value)


def _convert(old: Any, kinds: Sequence[Any], value: Any) -> Any:
    """Return JSON as a value of one of some types; `old` is the value so far, if there is one."""
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, Mapping) and isinstance(value, dict):
        of = (typing.get_args(kinds[0])[1],)
        return {name: _convert(None, of, each) for name, each in value.items()}
    of_any_length = [typing.get_args(each)[0] for each in kinds if typing.get_args(each)[1:] == (...,)]
    if of_any_length and isinstance(value, list):
        return tuple(_convert(None, of_any_length[:1], each) for each in value)
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_convert(o, (type(o),), v) for o, v in zip(old, value, strict=True))
    if type(value) not in kinds:
        such = "" if old is None else f", such as {old!r}"
        raise ConfigError(f"{json.dumps(value)} is not of type {_type_name(kinds)}{such}")
    return value


def _type_name(kinds: Sequence[Any]) -> str:
    return " or ".join(each.__name__ if isinstance(each, type) else str(each) for each in kinds)
