"""Tasks that layers are evaluated on, by name: labelled images here (section 3), dense tasks as `pe eval` does.

Classification uses the attentive probe, as the paper does, and also a linear probe and k-NN on the mean of the patches.
Retrieval needs no training: each test image is a query for the others of its class, by the cosine of means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.classified import has_labels
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.labelled import ImageSet, LabelledImages, hashed_classes, keep_trained
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import MILLIMETRES, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, attentive_scores
from perception_encoder.evaluation.classification.probes import K, fit_probe, vote
from perception_encoder.evaluation.classification.splits import Splits, load_splits
from perception_encoder.evaluation.classification.zero_shot import accuracies
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.embeddings import Features
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import inputs_of, settings_digest
from perception_encoder.evaluation.language.evaluators import AskedImages
from perception_encoder.evaluation.language.tasks import TASKS as LANGUAGE_TASKS
from perception_encoder.evaluation.layer_evaluator import LayerSource, decoded
from perception_encoder.evaluation.results import Evaluator
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.layer_analysis.question_task import QuestionTask
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import unit_rows

STRENGTHS = (1e-2, 1e-1, 1.0)
"""Strengths of the linear probe's regularisation, without the slow and rarely chosen ends of the suite's range."""


class LabelledTask:
    """A task on labelled images."""

    def __init__(
        self, name: str, parts: Mapping[str, LabelledImages], image_size: tuple[int, int] | None = None
    ) -> None:
        """`parts`: the images by role; `image_size`: height and width to resize to."""
        self.name, self.parts = name, dict(parts)
        self.inputs = [
            replace(inputs_of(images), name=f"{name}, {part}", image_size=image_size)
            for part, images in self.parts.items()
        ]

    def means(self, features: Iterable[CachedTokens]) -> list[Features]:
        """Return the mean patch of each image that could be decoded, part by part; DataError if a part is empty."""
        means = []
        for tokens, images in zip(features, self.parts.values(), strict=True):
            found = decoded(images, tokens)
            means.append(Features(tokens.mean(), found.keys, found.labels, tokens.failures))
        return means


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How classification is evaluated."""

    methods: tuple[str, ...] = ("attentive probe", "linear probe", "k-NN")
    """The classifiers; the first one is the main metric."""
    attentive: AttentiveConfig = field(default_factory=lambda: AttentiveConfig(learning_rates=(1e-3, 3e-3)))
    """Fewer learning rates than for published scores, as a probe is fitted for every layer."""


class ClassificationTask(LabelledTask):
    """Classification by probes."""

    def __init__(
        self, splits: Splits, config: LabelledConfig | None = None, image_size: tuple[int, int] | None = None
    ) -> None:
        """`splits`: see `read_label_splits`."""
        super().__init__("classification", {"train": splits.train, "val": splits.val, "test": splits.test}, image_size)
        self.splits, self.config = splits, config or LabelledConfig()

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        depends = settings_digest(asdict(self.config), tuple(part.labels for part in self.parts.values()))
        yield from source.score(self.inputs, depends, self._score, track)

    def _score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
        layers, classes = list(features), self.splits.classes
        train, val, test = self.means(layers)

        label = Label(
            task=self.splits.test.name,
            method=", ".join(self.config.methods),
            classes=len(classes),
            settings={"layer": str(layers[0].layer), "train": str(len(train.keys))},
        )
        for method in self.config.methods:
            pool = {"pool": "mean"}
            if method == "attentive probe":
                pool = {}
                items, _ = attentive_scores(layers, list(self.parts.values()), classes, self.config.attentive)
            elif method == "linear probe":
                found = fit_probe(train, val, classes, STRENGTHS).classify(test.vectors)
                items = accuracies(found, test.keys, test.labels, classes)
            else:
                known = unit_rows(np.concatenate([train.vectors, val.vectors]))
                labels = np.concatenate([train.targets(classes), val.targets(classes)])
                found = vote(known, labels, unit_rows(test.vectors), min(K, len(known)))
                items = accuracies(found, test.keys, test.labels, classes)
            by_class = [item for item in items if item.metric == items[0].metric]
            named = [replace(item, metric=f"{item.metric}, {method}") for item in by_class]
            yield from measure_all(named, replace(label, settings={**label.settings, **pool}))


class RetrievalTask(LabelledTask):
    """Retrieval of images by another image of their class."""

    def __init__(self, labelled: LabelledImages, image_size: tuple[int, int] | None = None) -> None:
        """Raises DataError unless there are several classes, at least one of them with two images."""
        super().__init__("retrieval", {"test": labelled}, image_size)
        if len(set(labelled.labels)) < 2:
            raise DataError(f"{labelled.name} has a single class; retrieval needs at least two")
        if len(set(labelled.labels)) == len(labelled.labels):
            raise DataError(f"{labelled.name} has one image of each class; retrieval needs a second one to retrieve")
        self.labelled = labelled

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Yield mean average precision and R@1 over the images with another image of their class.

        An image is both a query and a result of others: intervals are of what it contributes in both ways.
        """
        depends = settings_digest({"interval": "jackknife"}, (self.labelled.labels,))
        yield from source.score(self.inputs, depends, self._score, track)

    def _score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
        (test,) = self.means(features)
        _, labels = np.unique(test.labels, return_inverse=True)
        whole, without = retrieval_precision(unit_rows(test.vectors), labels)
        if np.isnan(whole[0]).all():
            raise DataError(f"{self.labelled.name}: no class has two images that can be decoded")
        items = [
            ItemScores.of(name, contributions(float(np.nanmean(item)), _column_means(less)), test.keys)
            for name, item, less in zip(("mean average precision", "R@1"), whole, without, strict=True)
        ]
        label = Label(task=self.labelled.name, method="image retrieval", settings={"pool": "mean"})
        yield from measure_all(items, label)


def retrieval_precision(
    vectors: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "2 n"], Float[np.ndarray, "2 n n"]]:
    """Return each query's average precision over the others with its label, and whether the first one has it, 0 or 1.

    The second array holds the same for each query (row) without one other image (column). `vectors` are unit; of equal
    similarities the image of another class comes first, so that equal vectors retrieve nothing early. NaN if no other
    image has the label.
    """
    count = len(vectors)
    whole, without = np.full((2, count), np.nan), np.full((2, count, count), np.nan)
    for row, vector in enumerate(vectors):
        similarity, same = vectors @ vector, labels == labels[row]
        others = np.delete(np.arange(count), row)
        order = others[np.lexsort((same[others], -similarity[others]))]
        hits = same[order]
        if not hits.any():
            continue
        ranks, hits_so_far = np.arange(1, count), hits.cumsum()
        precisions = hits_so_far / ranks
        whole[:, row] = precisions[hits].mean(), hits[0]
        # what ranks after the left-out image comes a rank earlier, after one hit fewer if that image was a hit
        earlier = np.maximum(ranks - 1, 1)
        before = np.where(hits, precisions, 0).cumsum() - np.where(hits, precisions, 0)
        after = np.where(
            hits, _sums_after(hits * (hits_so_far - 1) / earlier), _sums_after(hits * hits_so_far / earlier)
        )
        left = hits_so_far[-1] - hits
        without[0, row, order] = np.where(left > 0, (before + after) / np.maximum(left, 1), np.nan)
        without[1, row, order] = np.where(left > 0, hits[0], np.nan)
        if left[0] > 0:
            without[1, row, order[0]] = hits[1]
    return whole, without


def _sums_after(values: np.ndarray) -> np.ndarray:
    """Return at each position the sum of all later values."""
    return np.asarray(values[::-1].cumsum()[::-1] - values)


def _column_means(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return the mean of each column's finite values; NaN if there are none."""
    count = np.isfinite(values).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), count, out=np.full(len(values), np.nan), where=count > 0)


def read_label_splits(path: Path, items: int = 1000) -> Splits:
    """Read a path's classification tasks as one: see `join_splits`.

    The test split is `test`, or `val` if `test` has no labels. Errors as those of `load_splits`.
    """
    return join_splits(load_splits(path, "test" if has_labels(path, "test") else "val"), items)


def join_splits(tasks: Mapping[str, Splits], items: int) -> Splits:
    """Join tasks, with equally many images of each class (smallest hashes); DataError for a single class.

    At most `items` test images, twice as many to train on and half as many to validate on, but two of each class.
    """
    train, val, test = (
        _join([getattr(task, part) for task in tasks.values()], "+".join(tasks), len(tasks) > 1)
        for part in ("train", "val", "test")
    )
    classes = len(set(test.labels))
    if classes < 2:
        raise DataError(f"{test.name} has only the class {test.labels[0]!r}; a task needs at least two")
    return Splits(
        train=_balance(train, 2 * items, classes),
        val=_balance(val, items // 2, classes),
        test=_balance(test, items, classes),
    )


def _join(parts: Sequence[LabelledImages], name: str, several: bool) -> LabelledImages:
    """Join tasks; with several, prefix keys and labels with the task's name."""
    rows = [
        (f"{part.name}/{key}", source, f"{part.name}/{label}") if several else (key, source, label)
        for part in parts
        for key, source, label in zip(part.keys, part.images, part.labels, strict=True)
    ]
    return LabelledImages.of(name, rows)


def _balance(task: LabelledImages, items: int, classes: int) -> LabelledImages:
    """Return a fixed choice of at most `items` images, equally many of each class but at least two."""
    per_class = max(2, items // classes)
    by_label = hashed_classes(task.keys, task.labels)
    return task.select(sorted(row for rows in by_label.values() for row in rows[:per_class]))


TASKS = (
    *("classification", "retrieval", "segmentation", "depth", "tracking", "detection"),
    *(name for name in LANGUAGE_TASKS if name != "mvbench"),  # of questions about one image
)
DEPTH_HEAD = DepthConfig(channels=32)
DETECTION = DetectionConfig(channels=64, hidden=256, regions=128, fit=FitConfig(epochs=8, batch=8, weight_decay=0.05))
"""Smaller heads than for published scores, as one is fitted for every layer."""

AnySet = TypeVar("AnySet", bound=ImageSet)
LayerTask = Evaluator[LayerSource]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of all tasks."""

    items: int = 1000
    """Maximum number of test images of a task; heads are fitted on twice as many."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize images to; by default the encoder's."""
    short_side: int = 240
    """Short side of videos' frames in pixels; costs a seventh of DAVIS's 480."""
    per_metre: float = MILLIMETRES
    """Depth units per metre in the files."""


def make_tasks(
    names: Sequence[str], paths: Mapping[str, Path], default: Path | None, options: TaskOptions | None = None
) -> dict[str, LayerTask]:
    """Read the named tasks, by name, each from its own path or the default one.

    Raises ConfigError for an unknown name and for a path whose task is not among them, DataError for a task without a
    path and for a path without what its task needs.
    """
    options = options or TaskOptions()
    if unknown := [name for name in (*names, *paths) if name not in TASKS]:
        raise ConfigError(f"the task {unknown[0]!r} is unknown; the tasks are {', '.join(TASKS)}")
    if unused := [name for name in paths if name not in names]:
        raise ConfigError(f"--data is given for {unused[0]}, which is not among the tasks; add it to --tasks")
    tasks: dict[str, LayerTask] = {}
    read_labels = cache(read_label_splits)  # several tasks read the same ones
    for name in dict.fromkeys(names):
        path = paths.get(name, default)
        if path is None:
            raise DataError(f"{name} has no data; give --data {name}=PATH")
        try:
            tasks[name] = make_task(name, path, options, read_labels)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return tasks


def make_task(
    name: str, path: Path, options: TaskOptions, read_labels: Callable[[Path, int], Splits] = read_label_splits
) -> LayerTask:
    """Read a task from a path; DataError if required data are missing, ConfigError for an unknown name."""
    items, size = options.items, options.image_size
    match name:
        case "classification":
            return ClassificationTask(read_labels(path, items), image_size=size)
        case "retrieval":
            return RetrievalTask(read_labels(path, items).test, size)
        case "tracking":
            return TrackingEvaluator(read_videos(path), options.short_side)
        case "segmentation":
            return SegmentationEvaluator(*thin(read_class_splits(path), items), image_size=size)
        case "depth":
            splits = thin(read_depth_splits(path, options.per_metre), items)
            return DepthEvaluator(*splits, DepthProtocol(head=DEPTH_HEAD), size)
        case "detection":
            return DetectionEvaluator(*keep_trained(*thin(read_instance_splits(path), items)), DETECTION, size)
        case _ if name in TASKS:
            task = LANGUAGE_TASKS[name]
            parts = {"train": "train", "test": ""}  # by default the split that papers report
            train, test = (AskedImages.of(f"{name}, {part}", task.read(name, path, parts[part])) for part in parts)
            return QuestionTask(task, *thin((train, test), items), image_size=size)
    raise ConfigError(f"the task {name!r} is unknown; the tasks are {', '.join(TASKS)}")


def thin(splits: tuple[AnySet, AnySet], items: int) -> tuple[AnySet, AnySet]:
    """Return at most `items` test images and twice as many training images."""
    train, test = splits
    return train.spread(2 * items), test.spread(items)
