"""Evaluate every layer of a model on several tasks, with features extracted once.

A layer's scores are cached next to the features as soon as they are computed, under a digest of what they depend on.
So an interrupted sweep resumes, and a sweep with another task evaluates that task only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.evaluation.feature_cache import CachedFeatures, FeatureCache
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import CachingLayers, ScoreLayer
from perception_encoder.evaluation.results import Evaluator
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.files import digest
from perception_encoder.inference.layer_features import LayerFeatures, LayerTokens
from perception_encoder.layer_analysis.curve import LayerCurve, LayerScore
from perception_encoder.progress import Track, untracked
from perception_encoder.store import Store

COLOURS = "colours"
"""Name of the baseline that tracks by colour alone."""
FORMAT = 5
"""Version of cached scores, including those of `experiments/layers`; other versions are ignored."""

Tasks = Mapping[str, Evaluator[LayerFeatures]]
"""Evaluators by the name of the task."""


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
    tested: Mapping[str, tuple[EncoderInputs, CachedFeatures]]
    """The test images of each task, of the last video for tracking, and their features."""


def run_sweep(
    encoder: LayerFeatures,
    tasks: Tasks,
    cache: FeatureCache,
    layers: Sequence[int] | None = None,
    track: Track = untracked,
) -> Sweep:
    """Encode the images that the tasks need, then evaluate each task layer by layer.

    `layers`: see `evaluated_layers`. Raises ConfigError for a layer that does not exist, DataError if data lack what a
    task needs, ModelError if a feature or a score is not finite.
    """
    numbers = evaluated_layers(encoder, layers)
    curves: list[LayerCurve] = []
    failures: dict[str, InputError] = {}
    keys: set[str] = set()
    tested: dict[str, tuple[EncoderInputs, CachedFeatures]] = {}
    for name, task in tasks.items():
        swept = SweptLayers(encoder, name, cache, numbers)
        scores = {
            layer: {score.name: _layer_score(score) for score in task.run(swept.at(layer), track)}
            for layer in track(numbers, f"{name}, {encoder.name}", len(numbers))
        }
        for images, features in swept.encoded:
            keys |= {f"{images.digest}/{key}" for key in images.keys}
            failures |= {f"{images.digest}/{failure.source}": failure for failure in features.failures}
        tested[name] = swept.encoded[-1]
        if other := [layer for layer in numbers if list(scores[layer]) != list(scores[numbers[0]])]:
            raise DataError(f"{name} has other metrics at layer {other[0]} than at others; delete its scores")
        for metric in scores[numbers[0]]:
            by_layer = {layer: by_name[metric] for layer, by_name in scores.items()}
            curve = LayerCurve(model=encoder.name, task=name, metric=metric, depth=encoder.depth, scores=by_layer)
            curves.append(curve)
    return Sweep(
        model=encoder.name,
        about=encoder.about,
        curves=tuple(curves),
        failures=tuple(failures.values()),
        images=len(keys),
        tested=tested,
    )


def evaluated_layers(encoder: LayerFeatures, layers: Sequence[int] | None) -> list[int]:
    """Return the layers to evaluate, 0-based: the given ones or all, and always the last.

    ConfigError for a layer that does not exist.
    """
    return encoder.resolve_layers(None if layers is None else [*layers, -1])


def _layer_score(score: Score) -> LayerScore:
    """Return a score with draws of as many digits as a report's."""
    return LayerScore.from_dict(LayerScore.of(score).to_dict())


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """The scores of a layer."""

    layer: int
    scores: tuple[Score, ...]


class SweptLayers(CachingLayers):
    """Layers of a model whose tokens of one task, and the scores, are cached in a directory."""

    def __init__(self, encoder: LayerFeatures, task: str, cache: FeatureCache, layers: Sequence[int]) -> None:
        self.encoder, self.task, self.cache, self.layers = encoder, task, cache, layers
        self.name, self.depth, self.width = encoder.name, encoder.depth, encoder.width
        self.patch_size, self.image_size = encoder.patch_size, encoder.image_size
        self.encoded: list[tuple[EncoderInputs, CachedFeatures]] = []
        """The task's images with their features, encoded for the first layer."""

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        """Yield the scores of the selected layer, from the cache if possible."""
        if not self.encoded:
            self.encoded += [
                (images, self.cache.encode_layers(self.encoder, images, self.layers, track)) for images in inputs
            ]
        settings = {
            "format": FORMAT,
            "task": self.task,
            "data": depends,
            "features": [features.key for _, features in self.encoded],
        }
        directory = self.cache.directory / "scores" / digest(settings)
        with Store(directory, settings, remedy="delete it to evaluate again") as store:
            done = store.records(_Evaluated, "scores")
            row = next((row for row in done.rows if row.layer == self.layer), None)
            if row is None:
                row = _Evaluated(
                    layer=self.layer,
                    scores=tuple(score(features.read(self.layer) for _, features in self.encoded)),
                )
                if bad := [item.name for item in row.scores if not np.isfinite(item.value)]:
                    raise ModelError(
                        f"{self.task}: {bad[0]} of layer {self.layer} of {self.name} is not finite; check the model"
                    )
                done.append(row)
            with store.reading(done.path, (DataError,)):
                found = list(row.scores)
                if not found or len({LayerScore.of(item).draws.shape for item in found}) > 1:
                    raise ValueError(f"layer {self.layer} has no scores, or not all resamples")
        yield from found


class ColourFeatures(LayerFeatures):
    """Mean colours of another model's patches, without weights."""

    name, depth, width, layer = COLOURS, 1, 3, 0

    def __init__(self, other: LayerFeatures) -> None:
        self.patch_size, self.image_size = other.patch_size, other.image_size

    @property
    def about(self) -> dict[str, str]:
        """Everything its features depend on besides the images."""
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
