"""Evaluate every layer of a model on several tasks, with features extracted once.

A layer's scores are cached next to the features as soon as they are computed, under a digest of what they depend on.
So an interrupted sweep resumes, and a sweep with another task evaluates that task only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.evaluation.feature_cache import CachedFeatures, FeatureCache
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.evaluation.statistics.scores import by_metric
from perception_encoder.files import digest
from perception_encoder.inference.layer_features import LayerFeatures, LayerTokens
from perception_encoder.layer_analysis.curve import LayerCurve, LayerScore
from perception_encoder.progress import Track, untracked
from perception_encoder.store import Store

COLOURS = "colours"
"""Name of the baseline that tracks by colour alone."""
FORMAT = 4
"""Version of cached scores, including those of `experiments/layers`; other versions are ignored."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Curves of a model."""

    model: str
    about: dict[str, str]
    curves: tuple[LayerCurve, ...]
    failures: tuple[InputError, ...]
    """Images and masks that could not be used, without duplicates; no score includes them."""
    images: int
    """Number of images, including those that could not be used."""


def run_sweep(
    encoder: LayerFeatures,
    tasks: Sequence[LayerEvaluator],
    cache: FeatureCache,
    layers: Sequence[int] | None = None,
    track: Track = untracked,
) -> Sweep:
    """Encode the images that the tasks need, then evaluate each task layer by layer.

    `layers`: see `evaluated_layers`. Raises ConfigError for a layer that does not exist, DataError if data lack what a
    task needs, ModelError if a feature or a score is not finite.
    """
    numbers = evaluated_layers(encoder, layers)
    name, depth = encoder.name, encoder.depth
    curves: list[LayerCurve] = []
    failures: dict[str, InputError] = {}
    keys: set[str] = set()
    for task in tasks:
        cached = []
        for images in task.images(encoder):
            features = cache.encode_layers(encoder, images, numbers, track)
            cached.append(features)
            keys |= {f"{images.digest}/{key}" for key in images.keys}
            failures |= {f"{images.digest}/{failure.source}": failure for failure in features.failures}
        scores = _evaluate(name, task, cached, track(numbers, f"{task.name}, {name}", len(numbers)), cache.directory)
        metrics = scores[numbers[0]]
        if other := [layer for layer in numbers if list(scores[layer]) != list(metrics)]:
            raise DataError(f"{task.name} has other metrics at layer {other[0]} than at others; delete its scores")
        for metric in metrics:
            by_layer = {layer: by_name[metric] for layer, by_name in scores.items()}
            curves.append(LayerCurve(model=name, task=task.name, metric=metric, depth=depth, scores=by_layer))
    unusable = tuple(failures.values())
    return Sweep(model=name, about=encoder.about, curves=tuple(curves), failures=unusable, images=len(keys))


def evaluated_layers(encoder: LayerFeatures, layers: Sequence[int] | None) -> list[int]:
    """Return the layers to evaluate, 0-based: the given ones or all, and always the last.

    ConfigError for a layer that does not exist.
    """
    return encoder.resolve_layers(None if layers is None else [*layers, -1])


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """The scores of a layer."""

    layer: int
    scores: tuple[dict[str, Any], ...]


def _evaluate(
    model: str, task: LayerEvaluator, cached: Sequence[CachedFeatures], layers: Iterable[int], directory: Path
) -> dict[int, dict[str, LayerScore]]:
    """Return the scores of layers by metric, from the cache if possible."""
    depends = {
        "format": FORMAT,
        "task": task.name,
        "data": task.digest,
        "features": [features.key for features in cached],
    }
    found: dict[int, dict[str, LayerScore]] = {}
    with Store(directory / "scores" / digest(depends), depends, remedy="delete it to evaluate again") as store:
        done = store.records(_Evaluated, "scores")
        earlier = {row.layer: row for row in done.rows}
        for layer in layers:
            if (row := earlier.get(layer)) is None:
                groups = by_metric(task.score([features.read(layer) for features in cached]).scores)
                scores = [LayerScore.of(group, task.pools.get(metric, task.pool)) for metric, group in groups.items()]
                if bad := [score.name for score in scores if not np.isfinite(score.value)]:
                    raise ModelError(
                        f"{task.name}: {bad[0]} of layer {layer} of {model} is not finite; check the model"
                    )
                row = _Evaluated(layer=layer, scores=tuple(score.to_dict() for score in scores))
                done.append(row)
            with store.reading(done.path):  # also what was just written, for the same digits in every run
                found[layer] = {score.name: score for score in map(LayerScore.from_dict, row.scores)}
                if not found[layer] or len({score.draws.shape for score in found[layer].values()}) > 1:
                    raise ValueError(f"layer {layer} has no scores, or not all resamples")
    return found


class ColourFeatures(LayerFeatures):
    """Mean colours of another model's patches, without weights."""

    name, depth, width, layer = COLOURS, 1, 3, 0

    def __init__(self, other: LayerFeatures) -> None:
        self.patch_size, self.image_size = other.patch_size, other.image_size

    @property
    def about(self) -> dict[str, str]:
        """What its features depend on besides the images."""
        return {"weights": f"{COLOURS} of patches of {self.patch_size}", "dtype": "float32", "device": "cpu"}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Return the mean colour of each patch minus grey, in (-0.5, 0.5): see `LayerFeatures`."""
        if set(layers) != {0}:
            raise ConfigError(f"layers are {list(layers)}; {COLOURS} has only layer 0")
        height, width = image_size or self.image_size
        h, w = height // self.patch_size, width // self.patch_size
        small = [image.convert("RGB").resize((w, h), Image.Resampling.BOX) for image in images]
        patches = np.stack([np.asarray(image, dtype=np.float32) for image in small]) / 255 - 0.5
        return {0: LayerTokens(np.zeros((len(patches), 0, 3), np.float32), patches)}
