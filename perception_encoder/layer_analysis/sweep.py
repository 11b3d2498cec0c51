"""Evaluate every layer of a model on several tasks, with features extracted once.

A layer's scores are cached next to the features as soon as they are computed, under a digest of what they depend on.
So an interrupted sweep resumes, and a sweep with another task evaluates that task only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, ModelError, one_line
from perception_encoder.evaluation.feature_cache import CachedFeatures, FeatureCache
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.evaluation.statistics.scores import by_metric
from perception_encoder.files import write_json
from perception_encoder.inference.layer_features import LayerFeatures, LayerTokens
from perception_encoder.layer_analysis.curve import LayerCurve, LayerScore
from perception_encoder.progress import Track, untracked

COLOURS = "colours"
"""Name of the baseline that tracks by colour alone."""
FORMAT = 3
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
        scores = {
            layer: _evaluate(name, task, cached, layer, cache.directory / "scores")
            for layer in track(numbers, f"{task.name}, {name}", len(numbers))
        }
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


def _evaluate(
    model: str, task: LayerEvaluator, cached: Sequence[CachedFeatures], layer: int, directory: Path
) -> dict[str, LayerScore]:
    """Return the scores of a layer by metric, from the cache if possible."""
    depends = json.dumps([FORMAT, task.name, task.digest, layer, [features.key for features in cached]])
    path = directory / f"{hashlib.sha256(depends.encode()).hexdigest()[:20]}.json"
    if not path.is_file():
        groups = by_metric(task.score([features.read(layer) for features in cached]).scores)
        computed = [LayerScore.of(group, task.pools.get(metric, task.pool)) for metric, group in groups.items()]
        if bad := [score.name for score in computed if not np.isfinite(score.value)]:
            raise ModelError(f"{task.name}: {bad[0]} of layer {layer} of {model} is not finite; check the model")
        write_json(path, [score.to_dict() for score in computed], indent=None)
    try:  # also after writing, for the same digits in every run
        scores = map(LayerScore.from_dict, json.loads(path.read_text(encoding="utf-8")))
        found = {score.name: score for score in scores}
        if not found or len({score.draws.shape for score in found.values()}) > 1:
            raise ValueError("it has no scores, or not all resamples")
        return found
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}); delete it to evaluate the layer again") from None


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
