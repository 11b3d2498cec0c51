"""Evaluate a model's layers on the tasks of the analysis in small, and cache the results.

The same number of layers of every model is evaluated, at even intervals and with the last, so that curves of models of
different depth can be compared. A model's result on a task is cached under a digest of all that it depends on: weights,
layers, images, targets, settings. Its features, gigabytes, are deleted when all its tasks are evaluated.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.layers.tasks import BY_COSINE, LayerData, Sizes, make_layer_tasks
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerSource, ScoreLayer
from perception_encoder.evaluation.results import read_text
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.files import digest, write_json
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.report import BY_COLOUR
from perception_encoder.layer_analysis.sweep import (
    COLOURS,
    FORMAT,
    ColourTowers,
    LayerCurve,
    LayerScore,
    Sweep,
    Tasks,
    run_sweep,
)
from perception_encoder.progress import Track, untracked

LAYERS = 6
"""The most layers that are evaluated of a model."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose layers are evaluated."""

    name: str
    """Its name on the page."""
    source: str
    """Name or checkpoint; `random:` before it for random weights; `COLOURS` for colours alone."""
    baseline: str | None = None
    """The model with random weights that it is compared with; None for a baseline itself."""
    final_norm: bool = False
    """Evaluate only the last layer, after the final norm, and only on tasks that compare cosines."""


def evaluate_model(model: Model, data: LayerData, sizes: Sizes, runs: Path, track: Track = untracked) -> dict[str, Any]:
    """Return a model's results, from `runs/analyses` or evaluated and cached there: see `pack`.

    Raises what `load_layers` and `run_sweep` do.
    """
    tasks = make_layer_tasks(data, sizes)
    if model.source == COLOURS:
        encoder = LayerFeatures(ColourTowers(load_layers("builtin")))
        tasks = {name: task for name, task in tasks.items() if name in BY_COLOUR}
        return evaluate_tasks(encoder, tasks, spread_to_last(encoder.depth), runs, track)
    tower = load_layers(model.source, final_norm=model.final_norm)
    tower.name, layers = model.name, spread_to_last(tower.depth)
    if model.final_norm:
        layers, tasks = layers[-1:], {name: task for name, task in tasks.items() if name in BY_COSINE}
    return evaluate_tasks(tower, tasks, layers, runs, track)


def evaluate_tasks(
    encoder: LayerFeatures, tasks: Tasks, layers: list[int], runs: Path, track: Track = untracked
) -> dict[str, Any]:
    """Return the results of an encoder's layers, as `evaluate_model` does."""
    features, results = runs / "features" / encoder.name, []
    for name, task in tasks.items():
        dependencies = _Dependencies(encoder, layers, name)
        list(task.run(dependencies, track))
        cache = runs / "analyses" / f"{dependencies.key}.json"
        if not cache.is_file():
            start = time.monotonic()
            sweep = run_sweep(encoder, {name: task}, FeatureCache(directory=features), layers, track)
            write_json(cache, pack(sweep, encoder, time.monotonic() - start), indent=None)
        results.append(json.loads(read_text(cache)))
    shutil.rmtree(features, ignore_errors=True)
    return join(results)


def spread_to_last(depth: int) -> list[int]:
    """Return at most `LAYERS` layers at even intervals, the last among them."""
    count = min(depth, LAYERS)
    return [round((number + 1) * depth / count) - 1 for number in range(count)]


class _Dependencies(LayerSource):
    """A model whose evaluator gives no scores, but the digest of what they depend on."""

    key = ""

    def __init__(self, features: LayerFeatures, layers: list[int], task: str) -> None:
        super().__init__(features)
        self.layers, self.task = layers, task

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        """Set `key`, and yield nothing."""
        images = [(image.digest, image.image_size) for image in inputs]
        about, size = dict(self.features.about), self.features.image_size
        self.key = digest(FORMAT, about, size, self.layers, self.task, depends, images)
        yield from ()


def pack(sweep: Sweep, encoder: LayerFeatures, seconds: float) -> dict[str, Any]:
    """Return a sweep of one task as JSON: the encoder, the leading curve with its draws, and what was left out."""
    curve = sweep.curves[0]
    layers = {layer: score.to_dict() for layer, score in curve.scores.items()}
    return {
        "weights": sweep.about["weights"],
        "image_size": encoder.image_size[0],
        "depth": encoder.depth,
        "seconds": round(seconds),
        "curves": [{"task": curve.task, "metric": curve.metric, "depth": curve.depth, "layers": layers}],
        "images": sweep.images,
        "failures": [str(failure) for failure in sweep.failures],
    }


def join(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join what `pack` returned of one model's tasks."""
    return {
        **results[0],
        "seconds": sum(item["seconds"] for item in results),
        "curves": [curve for result in results for curve in result["curves"]],
        "images": sum(value["images"] for value in results),
        "failures": sorted({failure for entry in results for failure in entry["failures"]}),
    }


def unpack(model: str, result: Mapping[str, Any]) -> dict[str, LayerCurve]:
    """Return the curves of what `pack` returned, by task."""
    return {curve["task"]: _to_curve(model, curve) for curve in result["curves"]}


def _to_curve(model: str, curve: Mapping[str, Any]) -> LayerCurve:
    scores = {int(layer): LayerScore.from_dict(score) for layer, score in curve["layers"].items()}
    return LayerCurve(model=model, task=curve["task"], metric=curve["metric"], depth=curve["depth"], scores=scores)
