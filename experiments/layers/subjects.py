"""Who is asked and what, in the layerwise analysis in small (section 3): models, tasks, and what is kept of an answer.

Of every tower as many layers are measured, evenly apart and the last among them; so curves of towers of different depth
can be laid side by side. What a model answered to a task is kept under a digest of all that it depends on: weights,
layers, pictures, targets, settings. Its features, gigabytes, are deleted when it has answered all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense.depth import DepthEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.report import read_text, write_text
from perception_encoder.inference.layer_encoder import StoredEncoder
from perception_encoder.inference.open_model import load_layer_encoder
from perception_encoder.layer_analysis.analysis import BY_COLOUR
from perception_encoder.layer_analysis.colour_encoder import COLOURS, ColourEncoder
from perception_encoder.layer_analysis.dense_tasks import DenseTask
from perception_encoder.layer_analysis.labelled_tasks import ClassificationTask, LabelledConfig
from perception_encoder.layer_analysis.layer_task import LayerScore, LayerTask
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import FORMAT, LayerCurve, Sweep, run_sweep
from perception_encoder.layer_analysis.tasks import SizedTask, make_tasks
from perception_encoder.pretraining.builtin.held_out import find_unseen_labels
from perception_encoder.progress import Track, untracked

MEASURED = 6
"""Layers that are measured of a tower, at most."""
EPOCHS = 12
"""Of the attentive probe."""
CHANNELS, STEPS = 16, 100
"""Of the depth head, and of its fit, whatever the number of pictures."""
QUESTIONS = {
    "classification": ("classification", "photos"),
    "retrieval": ("retrieval", "photos"),
    "segmentation": ("foreground", "scenes"),
    "depth of scenes": ("relative-depth", "scenes"),
    "depth of rooms": ("depth", "rooms"),
    "tracking": ("tracking", "clips"),
    "captions": ("captions", "captions"),
}
"""What is asked, by the name it has on the page: the kind of task, and which of `LayerData` it is of.

Segmentation is of objects of any class: a few hundred scenes show each class a few times. Detection is not among them:
in as few steps as two cores allow a detector reaches 1 or 2 % AP, which shows nothing of a layer.
"""

BY_COSINE = ("retrieval", "tracking", "captions")
"""Tasks without a fitted head, which would standardise features itself: here a final norm shows."""
AT_ONE_SIZE, SIZE = ("segmentation", "depth of scenes", "depth of rooms"), 128
"""Tasks whose pictures all models see at one size: a finer grid of patches draws things better, whatever it holds."""


@dataclass(frozen=True, kw_only=True)
class LayerData:
    """Where the tasks' data are."""

    photos: Path
    """Shards of labelled pictures."""
    scenes: Path
    """Rendered scenes."""
    clips: Path
    """Videos with masks."""
    rooms: Path | None = None
    """Pictures with their depths; without it their task is left out. Of one sequence no interval can be had."""
    captions: Path | None = None
    """File of pictures' captions; without it their task is left out."""

    def __post_init__(self) -> None:
        """DataError for a place that does not exist."""
        for each in fields(self):
            place = getattr(self, each.name)
            if place is not None and not place.exists():
                raise DataError(f"{each.name}: {place} does not exist")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many items a task is measured on, at most; heads are fitted on twice as many."""

    photos: int = 300
    scenes: int = 60
    rooms: int = 100
    clips: int = 40
    """Frames of each video."""
    captions: int = 500


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model whose layers are asked."""

    name: str
    """As the page has it."""
    place: str
    """Name or checkpoint; `random:` before it for random weights; `COLOURS` for colours alone."""
    beside: str | None = None
    """The subject with random weights that is shown beside it; None for a baseline itself."""
    final_norm: bool = False
    """Whether only the last layer is evaluated, through the final norm, and only on tasks of cosines."""


@lru_cache(maxsize=1)
def make_questions(data: LayerData, sizes: Sizes) -> tuple[LayerTask, ...]:
    """The tasks; DataError where a place lacks what its task needs."""
    found = []
    for name, (kind, source) in QUESTIONS.items():
        place, items = getattr(data, source), getattr(sizes, source)
        if place is None:
            continue
        (task,) = make_tasks([kind], {kind: place}, None, items, held_out=find_unseen_labels)
        task = _lighten(task, items)
        found.append(_Named(SizedTask(task, (SIZE, SIZE)) if name in AT_ONE_SIZE else task, name))
    return tuple(found)


def _lighten(task: LayerTask, items: int) -> LayerTask:
    """The task with a head that is fitted more briefly: many layers of many models pay for it."""
    if isinstance(task, ClassificationTask):
        config = LabelledConfig(items=items, methods=("attentive probe",))
        return ClassificationTask(task.splits, replace(config, attentive=replace(config.attentive, epochs=EPOCHS)))
    evaluator = task.evaluator if isinstance(task, DenseTask) else None
    if isinstance(evaluator, DepthEvaluator):
        head = evaluator.protocol.head
        head = replace(head, channels=CHANNELS, fit=_briefly(head.fit, STEPS, len(evaluator.train.keys)))
        protocol = replace(evaluator.protocol, head=head)
        return DenseTask(DepthEvaluator(evaluator.train, evaluator.test, protocol, name=evaluator.name))
    if isinstance(evaluator, TrackingEvaluator):
        cut = [replace(video, frames=video.frames[:items], masks=video.masks[:items]) for video in evaluator.videos]
        return DenseTask(TrackingEvaluator(cut, evaluator.config))
    return task


def _briefly(fit: FitConfig, steps: int, images: int) -> FitConfig:
    return replace(fit, epochs=-(-steps * fit.batch // images))


class _Named:
    """A task under another name: the same kind of data may be there twice."""

    def __init__(self, task: LayerTask, name: str) -> None:
        self.task, self.name = task, name
        self.digest, self.images, self.measure = task.digest, task.images, task.measure

    @property
    def failures(self) -> Any:
        return self.task.failures


def examine(subject: Subject, data: LayerData, sizes: Sizes, runs: Path, track: Track = untracked) -> dict[str, Any]:
    """What a subject's layers answer, from `runs/analyses` or measured and kept there: see `pack`.

    Raises what `load_layer_encoder` and `run_sweep` do.
    """
    tasks = make_questions(data, sizes)
    encoder: StoredEncoder
    if subject.place == COLOURS:
        encoder = ColourEncoder(load_layer_encoder("builtin"))
        tasks = tuple(task for task in tasks if task.name in BY_COLOUR)
    else:
        encoder = tower = load_layer_encoder(subject.place, final_norm=subject.final_norm)
        tower.name = subject.name
    layers, features = measured_layers(encoder.depth), runs / "features" / subject.name
    if subject.final_norm:
        layers, tasks = layers[-1:], tuple(task for task in tasks if task.name in BY_COSINE)
    answers = []
    for task in tasks:
        kept = runs / "analyses" / f"{_key(encoder, layers, task)}.json"
        if not kept.is_file():
            begun = time.monotonic()
            sweep = run_sweep(encoder, [task], StoreConfig(folder=features), layers, track)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, json.dumps(pack(sweep, encoder, time.monotonic() - begun)) + "\n")
        answers.append(json.loads(read_text(kept)))
    shutil.rmtree(features, ignore_errors=True)
    return join(answers)


def measured_layers(depth: int) -> list[int]:
    """At most `MEASURED`, evenly apart, the last among them."""
    count = min(depth, MEASURED)
    return [round((place + 1) * depth / count) - 1 for place in range(count)]


def _key(encoder: StoredEncoder, layers: list[int], task: LayerTask) -> str:
    shown = [(each.digest, each.image_size) for each in task.images(encoder)]
    depends = repr((FORMAT, sorted(encoder.about.items()), encoder.image_size, layers, task.name, task.digest, shown))
    return hashlib.sha256(depends.encode(errors="surrogatepass")).hexdigest()[:16]


def pack(sweep: Sweep, encoder: StoredEncoder, seconds: float) -> dict[str, Any]:
    """A sweep as JSON: what the encoder is, each task's leading curve with its draws, and what was left out."""
    leading = {curve.task: curve for curve in reversed(sweep.curves)}
    curves = [
        {
            **{name: getattr(curve, name) for name in ("task", "figure", "depth", "unit", "lower_is_better", "pool")},
            "layers": {
                layer: {
                    "value": score.value,
                    "n": score.n,
                    "blocks": score.blocks,
                    "by_seed": list(score.by_seed),
                    "drawn": score.drawn.tolist(),
                }
                for layer, score in curve.scores.items()
            },
        }
        for curve in reversed(leading.values())
    ]
    return {
        "weights": sweep.about["weights"],
        "image_size": encoder.image_size[0],
        "depth": encoder.depth,
        "seconds": round(seconds),
        "curves": curves,
        "pictures": sweep.pictures,
        "failures": [str(failure) for failure in sweep.failures],
    }


def join(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `pack` made of one model's answers to several tasks, as one."""
    return {
        **answers[0],
        "seconds": sum(each["seconds"] for each in answers),
        "curves": [curve for each in answers for curve in each["curves"]],
        "pictures": sum(each["pictures"] for each in answers),
        "failures": sorted({failure for each in answers for failure in each["failures"]}),
    }


def unpack(name: str, found: dict[str, Any]) -> dict[str, LayerCurve]:
    """The curves of what `pack` kept, by task."""
    return {said["task"]: _to_curve(name, said) for said in found["curves"]}


def _to_curve(name: str, said: dict[str, Any]) -> LayerCurve:
    common = {each: said[each] for each in ("unit", "lower_is_better", "pool")}
    scores = {
        int(layer): LayerScore(
            name=said["figure"],
            **{**common, **score, "drawn": np.array(score["drawn"]), "by_seed": tuple(score["by_seed"])},
        )
        for layer, score in said["layers"].items()
    }
    return LayerCurve(model=name, task=said["task"], figure=said["figure"], depth=said["depth"], scores=scores)
