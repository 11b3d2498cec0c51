"""Every recipe by name, what can be done with one, and `--set`, which changes its settings.

Stages are imported when a recipe is made: torch takes seconds, and `pe train --list` needs none of it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.progress import Track, untracked

if TYPE_CHECKING:
    from perception_encoder.data.streams import Shards
    from perception_encoder.planning.cluster import Cluster, TrainingPlan
    from perception_encoder.train.metrics import Listener

Config = TypeVar("Config")


class RunConfig(Protocol):
    """A complete configuration: a frozen dataclass, one class a stage of the paper."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A run by name."""

    summary: str
    """One line, for the list."""
    config: Callable[[], RunConfig]
    """Makes the complete configuration."""


def _pretraining() -> Any:
    from perception_encoder.pretraining import recipes

    return recipes


def _builtin() -> Any:
    from perception_encoder.pretraining.builtin import recipe

    return recipe


def _distillation() -> Any:
    from perception_encoder.distillation import recipes

    return recipes


def _video() -> Any:
    from perception_encoder.video_finetuning import recipes

    return recipes


def _finetuning() -> Any:
    from perception_encoder.finetuning import recipes

    return recipes


RECIPES: dict[str, Recipe] = {
    "builtin": Recipe("the built-in model, first edition: two hours on 2 cores", lambda: _builtin().builtin()),
    "builtin_second": Recipe(
        "the built-in model, second edition: two more hours on mixed images", lambda: _builtin().builtin_second()
    ),
    "core_t16": Recipe("PE-Core-T: 58 billion pairs", lambda: _pretraining().core("t16")),
    "core_s16": Recipe("PE-Core-S: 58 billion pairs", lambda: _pretraining().core("s16")),
    "core_b16": Recipe("PE-Core-B: 58 billion pairs", lambda: _pretraining().core("b16")),
    "core_l14": Recipe("PE-Core-L: 58 billion pairs", lambda: _pretraining().core("l14")),
    "core_g14": Recipe("PE-Core-G: 86 billion pairs", lambda: _pretraining().core("g14")),
    "core_t16_cooldown": Recipe("PE-Core-T, cooldown: 50 million pairs", lambda: _pretraining().cooldown("t16")),
    "core_s16_cooldown": Recipe("PE-Core-S, cooldown: 50 million pairs", lambda: _pretraining().cooldown("s16")),
    "core_b16_cooldown": Recipe("PE-Core-B, cooldown: 50 million pairs", lambda: _pretraining().cooldown("b16")),
    "core_l14_cooldown": Recipe("PE-Core-L, cooldown: 50 million pairs", lambda: _pretraining().cooldown("l14")),
    "core_g14_cooldown": Recipe("PE-Core-G, cooldown: 50 million pairs", lambda: _pretraining().cooldown("g14")),
    "video_finetune_t16": Recipe(
        "PE-Core-T, video finetuning: 22 million videos", lambda: _video().video_finetune("t16")
    ),
    "video_finetune_s16": Recipe(
        "PE-Core-S, video finetuning: 22 million videos", lambda: _video().video_finetune("s16")
    ),
    "video_finetune_b16": Recipe(
        "PE-Core-B, video finetuning: 22 million videos", lambda: _video().video_finetune("b16")
    ),
    "video_finetune_l14": Recipe(
        "PE-Core-L, video finetuning: 22 million videos", lambda: _video().video_finetune("l14")
    ),
    "video_finetune_g14": Recipe(
        "PE-Core-G, video finetuning: 22 million videos", lambda: _video().video_finetune("g14")
    ),
    "ablation_1": Recipe("ViT-L/14, step 1: the CLIP baseline", lambda: _pretraining().ablation(1)),
    "ablation_2": Recipe("ViT-L/14, steps 1 to 2: progressive resolution", lambda: _pretraining().ablation(2)),
    "ablation_3": Recipe("ViT-L/14, steps 1 to 3: twice the batch and the pairs", lambda: _pretraining().ablation(3)),
    "ablation_4": Recipe("ViT-L/14, steps 1 to 4: LAMB", lambda: _pretraining().ablation(4)),
    "ablation_5": Recipe("ViT-L/14, steps 1 to 5: a stage at 336 px", lambda: _pretraining().ablation(5)),
    "ablation_6": Recipe("ViT-L/14, steps 1 to 6: 2D RoPE", lambda: _pretraining().ablation(6)),
    "ablation_7": Recipe("ViT-L/14, steps 1 to 7: attention pooling", lambda: _pretraining().ablation(7)),
    "ablation_8": Recipe("ViT-L/14, steps 1 to 8: augmentation", lambda: _pretraining().ablation(8)),
    "ablation_9": Recipe("ViT-L/14, steps 1 to 9: mask regularisation", lambda: _pretraining().ablation(9)),
    "vanilla_s14": Recipe("ViT-S/14: the CLIP baseline (Fig. 3)", lambda: _pretraining().scaling(1, "s14")),
    "full_s14": Recipe("ViT-S/14: all nine steps (Fig. 3)", lambda: _pretraining().scaling(9, "s14")),
    "vanilla_b14": Recipe("ViT-B/14: the CLIP baseline (Fig. 3)", lambda: _pretraining().scaling(1, "b14")),
    "full_b14": Recipe("ViT-B/14: all nine steps (Fig. 3)", lambda: _pretraining().scaling(9, "b14")),
    "vanilla_l14_120k": Recipe("ViT-L/14: CLIP (Fig. 4)", lambda: _pretraining().scaling(1, "l14", 120_000)),
    "full_l14_120k": Recipe("ViT-L/14: all nine (Fig. 4)", lambda: _pretraining().scaling(9, "l14", 120_000)),
    "vanilla_l14_240k": Recipe("ViT-L/14: CLIP (Fig. 4)", lambda: _pretraining().scaling(1, "l14", 240_000)),
    "full_l14_240k": Recipe("ViT-L/14: all nine (Fig. 4)", lambda: _pretraining().scaling(9, "l14", 240_000)),
    "vanilla_l14_360k": Recipe("ViT-L/14: CLIP (Figs. 3, 4)", lambda: _pretraining().scaling(1, "l14", 360_000)),
    "full_l14_360k": Recipe("ViT-L/14: all nine (Figs. 3, 4)", lambda: _pretraining().scaling(9, "l14", 360_000)),
    "distill_l14": Recipe("PE-Core-G into PE-Core-L: 4.4 billion pairs", lambda: _distillation().distill_core("l14")),
    "distill_b16": Recipe("PE-Core-G into PE-Core-B: 4.4 billion pairs", lambda: _distillation().distill_core("b16")),
    "distill_s16": Recipe("PE-Core-G into PE-Core-S: 4.4 billion pairs", lambda: _distillation().distill_core("s16")),
    "distill_t16": Recipe("PE-Core-G into PE-Core-T: 4.4 billion pairs", lambda: _distillation().distill_core("t16")),
    "distill_builtin": Recipe(
        "a model, --set teacher=…, into the built-in one", lambda: _distillation().distill_builtin()
    ),
    "finetune": Recipe("weights, --set initial=…, on your own pairs", lambda: _finetuning().own_pairs()),
}


def find_recipe(name: str) -> RunConfig:
    """Return the configuration of a recipe; ConfigError shows near matches."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "`pe train --list` shows them all"
        raise ConfigError(f"no recipe is called {name!r}; {hint}")
    return RECIPES[name].config()


def run_recipe(
    config: RunConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, a configuration on directories or shards; return the weights that it wrote."""
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.run import distill
    from perception_encoder.finetuning.config import FinetuningConfig
    from perception_encoder.finetuning.run import finetune
    from perception_encoder.pretraining.config import PretrainingConfig
    from perception_encoder.pretraining.run import pretrain
    from perception_encoder.video_finetuning.config import VideoFinetuningConfig
    from perception_encoder.video_finetuning.run import finetune_on_videos

    match config:
        case FinetuningConfig():
            return finetune(config, data, out, track, listener)
        case DistillationConfig():
            return distill(config, data, out, track, listener)
        case VideoFinetuningConfig():
            return finetune_on_videos(config, data, out, track, listener)
        case PretrainingConfig():
            return pretrain(config, data, out, track, listener)
    raise _unknown(config)


def debug_form(config: RunConfig) -> RunConfig:
    """Return the same run in four steps of a small model, to see that all works."""
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.recipes import debug_distillation
    from perception_encoder.finetuning.config import FinetuningConfig
    from perception_encoder.finetuning.recipes import debug_finetuning
    from perception_encoder.pretraining.config import PretrainingConfig
    from perception_encoder.pretraining.recipes import debug_pretraining

    match config:
        case FinetuningConfig():
            return debug_finetuning(config)
        case DistillationConfig():
            return debug_distillation(config)
        case PretrainingConfig():
            return debug_pretraining(config)
    raise _unknown(config)


def plan_recipe(config: RunConfig, cluster: Cluster) -> TrainingPlan:
    """Return what a run costs on a cluster."""
    from perception_encoder.distillation.config import DistillationConfig
    from perception_encoder.distillation.plan import plan_distillation
    from perception_encoder.pretraining.config import PairConfig
    from perception_encoder.pretraining.plan import plan_pretraining

    match config:
        case DistillationConfig():
            return plan_distillation(config, cluster)
        case PairConfig():
            return plan_pretraining(config.pretraining(), cluster)
    raise _unknown(config)


def _unknown(config: RunConfig) -> ConfigError:
    return ConfigError(f"{type(config).__name__} is not a configuration of a stage")


def override(config: Config, settings: Sequence[str]) -> Config:
    """Return a copy of a (frozen, nested) dataclass with settings changed.

    A name leads into dataclasses by field, into tuples by number (from 0) and into mappings by key:
    "optimizer.lr=1e-3", "stages.0.steps=100", "weights.flowers=0.2"; `null` is None if that is allowed, and a
    setting inside of what is None begins with its defaults. A JSON object replaces a whole mapping:
    'streams.captions={"alt_text": 1}'. Raises ConfigError for a name that does not exist (near matches shown), or a
    value of another type or out of range.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write name=value")
        try:
            config = _replace(config, type(config), path.strip().split("."), text.strip())
        except ConfigError as error:
            raise ConfigError(f"--set {setting}: {error}") from None
    return config


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
    """Parse a value of `kind`: number, text, true/false, null, or a JSON list or object."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if text == "null" and types.NoneType in kinds:
        return None
    if str in kinds:
        return text
    allowed = " or ".join(getattr(each, "__name__", str(each)) for each in kinds)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError(f"{text!r} is not of type {allowed}") from None
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, Mapping) and isinstance(value, dict):
        of = typing.get_args(kind)[1]
        return {name: _parse(None, of, json.dumps(each)) for name, each in value.items()}
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_parse(o, type(o), json.dumps(v)) for o, v in zip(old, value, strict=True))
    if type(value) not in kinds:
        raise ConfigError(f"{text} is not of type {allowed}, such as {old!r}")
    return value
