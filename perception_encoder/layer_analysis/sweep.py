"""The sweep: every task asked of every layer, from features that are extracted once.

A layer's figures are kept beside the features as soon as they are known, under a digest of what they depend on, so
that a sweep that was stopped goes on where it was, and a second one with another task measures that task alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_encoder.errors import DataError, InputError, ModelError
from perception_encoder.files import replacing, writing
from perception_encoder.inference.layer_encoder import StoredEncoder, resolve_layers
from perception_encoder.layer_analysis.layer_task import LayerScore, LayerTask
from perception_encoder.layer_analysis.store import StoreConfig, StoredLayers, extract
from perception_encoder.progress import Track, untracked

KEPT_DIGITS = 6
FORMAT = 2
"""Of the cached scores, those of `experiments/layers/subjects.py` too; another one is not read."""


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """One figure of one task over a model's layers."""

    model: str
    task: str
    figure: str
    depth: int
    """Layers that the model has."""
    scores: dict[int, LayerScore]
    """By layer, ascending."""

    @property
    def unit(self) -> str:
        """ "%" of a share in 0-1, "m", or nothing."""
        return next(iter(self.scores.values())).unit

    @property
    def pool(self) -> str:
        """What `pe embed --pool` takes for such work."""
        return next(iter(self.scores.values())).pool

    @property
    def lower_is_better(self) -> bool:
        """Whether a small figure is a good one."""
        return next(iter(self.scores.values())).lower_is_better

    @property
    def last(self) -> int:
        """The last of its layers, the model's output: it is always measured."""
        return max(self.scores)

    @property
    def best(self) -> int:
        """The layer with the best figure, the earliest of equals."""
        sign = -1 if self.lower_is_better else 1
        return max(self.scores, key=lambda layer: (sign * self.scores[layer].value, -layer))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A model's curves."""

    model: str
    about: dict[str, str]
    curves: tuple[LayerCurve, ...]
    failures: tuple[InputError, ...]
    """Pictures, and masks, that could not be used, each once; they are in no figure."""
    pictures: int
    """How many were looked at, those included."""


def run_sweep(
    encoder: StoredEncoder,
    tasks: Sequence[LayerTask],
    config: StoreConfig,
    layers: Sequence[int] | None = None,
    track: Track = untracked,
) -> Sweep:
    """Extract what the tasks look at, then measure them layer by layer.

    `layers`: see `measured_layers`; all by default. Raises ConfigError for a layer that does not exist, DataError where
    data lack what a task needs, ModelError for features, or a figure, that are not finite.
    """
    wanted = measured_layers(encoder, layers)
    curves: list[LayerCurve] = []
    failures: dict[str, InputError] = {}
    seen: set[str] = set()
    for task in tasks:
        shown = task.images(encoder)
        stored = [extract(encoder, pictures, wanted, config, track) for pictures in shown]
        for pictures, kept in zip(shown, stored, strict=True):
            seen |= {f"{pictures.digest}/{key}" for key in pictures.keys}
            failures |= {f"{pictures.digest}/{failure.source}": failure for failure in kept.failures}
        found = {
            layer: _measure(encoder.name, task, stored, layer, config.folder / "scores")
            for layer in track(wanted, f"{task.name}, {encoder.name}", len(wanted))
        }
        curves += _curves(encoder, task, found)
        failures |= {f"{task.name}/{failure.source}": failure for failure in task.failures}
    return Sweep(
        model=encoder.name,
        about=dict(encoder.about),
        curves=tuple(curves),
        failures=tuple(failures.values()),
        pictures=len(seen),
    )


def measured_layers(encoder: StoredEncoder, layers: Sequence[int] | None) -> list[int]:
    """The layers that a sweep measures, 0-based: those asked for, and the output, that all are compared with.

    ConfigError for a layer that does not exist.
    """
    return resolve_layers(encoder, None if layers is None else [*layers, -1])


def _curves(encoder: StoredEncoder, task: LayerTask, found: dict[int, tuple[LayerScore, ...]]) -> list[LayerCurve]:
    """One curve for each of the task's figures."""
    names = [score.name for score in next(iter(found.values()))]
    for layer, scores in found.items():
        if [score.name for score in scores] != names:
            raise DataError(f"{task.name} has other figures at layer {layer} than before; delete the store's scores")
    return [
        LayerCurve(
            model=encoder.name,
            task=task.name,
            figure=name,
            depth=encoder.depth,
            scores={layer: scores[place] for layer, scores in found.items()},
        )
        for place, name in enumerate(names)
    ]


def _measure(
    model: str, task: LayerTask, stored: Sequence[StoredLayers], layer: int, folder: Path
) -> tuple[LayerScore, ...]:
    depends = json.dumps([FORMAT, task.name, task.digest, layer, [kept.key for kept in stored]])
    path = folder / f"{hashlib.sha256(depends.encode()).hexdigest()[:20]}.json"
    if path.is_file():
        return _read_scores(path)
    scores = task.measure([kept.read(layer) for kept in stored])
    for score in scores:
        if not np.isfinite(score.value):
            raise ModelError(f"{task.name}: {score.name} of layer {layer} of {model} is not a number; features are bad")
    with writing(path), replacing(path) as temporary:
        temporary.write_text(json.dumps([_pack(score) for score in scores]), encoding="utf-8")
    return _read_scores(path)  # as the next run will have them


def _pack(score: LayerScore) -> dict[str, object]:
    names = ("name", "value", "n", "blocks", "pool", "unit", "lower_is_better", "by_seed")
    kept = {name: getattr(score, name) for name in names}
    return {**kept, "drawn": [round(float(value), KEPT_DIGITS) for value in score.drawn]}


def _read_scores(path: Path) -> tuple[LayerScore, ...]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            LayerScore(**{**score, "drawn": np.array(score["drawn"]), "by_seed": tuple(score["by_seed"])})
            for score in said
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, and it is measured anew") from None
