"""What layers know of labels: classification by probes, and retrieval of pictures by a picture (section 3).

All classification tasks of the data are one here: a class is a task's label, and a probe chooses among all of them.
Classification is by the attentive probe, as in the paper, and beside it by a linear probe and k-NN on the mean of the
patches. Retrieval needs no training: every measured picture asks for the others of its class, by the cosine of means.
Of each class as many pictures are taken, those whose names have the smallest hash.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from perception_encoder.datasets.classified import ClassOptions
from perception_encoder.datasets.labelled import HeldOut, LabelledImages
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, fit_attentive
from perception_encoder.evaluation.classification.linear_probe import fit_probe
from perception_encoder.evaluation.classification.nearest_neighbours import K, vote
from perception_encoder.evaluation.classification.splits import Splits, load_splits
from perception_encoder.evaluation.classification.zero_shot import accuracies
from perception_encoder.evaluation.features import Features
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages, Tokens, content_digest
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores, with_head_seeds
from perception_encoder.formats.media_directory import Clip
from perception_encoder.layer_analysis.layer_task import LayerScore
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.preprocess.image import open_image

STRENGTHS = (1e-2, 1e-1, 1.0)
"""Of the linear probe's regularisation; the ends of the suite's range are slow and seldom chosen."""
METHODS = ("attentive probe", "linear probe", "k-NN")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How much is looked at, and how."""

    items: int = 1000
    """Pictures to be measured, at most; twice as many to train on, half as many to choose settings on."""
    methods: tuple[str, ...] = METHODS
    """Ways of classification; the first stands in front."""
    attentive: AttentiveConfig = field(default_factory=lambda: AttentiveConfig(learning_rates=(1e-3, 3e-3)))
    """Fewer rates than for a published figure, for every layer pays for them."""


class ClassificationTask:
    """Whether a layer's tokens tell classes apart."""

    name = "classification"
    failures: tuple[InputError, ...] = ()

    def __init__(self, splits: Splits, config: LabelledConfig | None = None) -> None:
        """`splits`: of one task; see `load_labels`."""
        self.splits, self.config = splits, config or LabelledConfig()

    @property
    def digest(self) -> str:
        """Of the labels and the settings."""
        parts = (self.splits.train, self.splits.val, self.splits.test)
        return _digest(asdict(self.config), *(part.labels for part in parts))

    @cached_property
    def _images(self) -> tuple[LayerImages, ...]:
        parts = {"train": self.splits.train, "val": self.splits.val, "test": self.splits.test}
        return tuple(layer_images(part, f"{self.name}, {split}") for split, part in parts.items())

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """Training, validation and measured pictures."""
        return self._images

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """Mean class accuracy by each of the methods."""
        splits, classes = self.splits, self.splits.classes
        parts = [
            _labelled(found, part)
            for found, part in zip(features, (splits.train, splits.val, splits.test), strict=True)
        ]
        targets = [part.targets(classes) for part in parts]
        scores = []
        for method in self.config.methods:
            if method == "attentive probe":
                tokens = [found.tokens for found in features]
                accuracy = self._attentive(tokens, targets, parts[2])
                scores.append(LayerScore.of(accuracy, "tokens", f"{accuracy[0].metric}, {method}"))
                continue
            if method == "linear probe":
                predicted = fit_probe(parts[0], parts[1], classes, STRENGTHS).classify(parts[2].vectors)
            else:
                known = unit(np.concatenate([parts[0].vectors, parts[1].vectors]))
                labels = np.concatenate(targets[:2])
                predicted = vote(known, labels, unit(parts[2].vectors), min(K, len(known)))
            share = accuracies(predicted, parts[2].keys, parts[2].labels, classes)[0]
            scores.append(LayerScore.of(share, "mean", f"{share.metric}, {method}"))
        return tuple(scores)

    def _attentive(
        self, tokens: Sequence[Tokens], targets: Sequence[np.ndarray], test: Features
    ) -> tuple[ItemScores, ...]:
        """Mean class accuracy by the attentive probe, with each head seed."""
        classes, config = self.splits.classes, self.config.attentive

        def score(seed: int) -> tuple[ItemScores, ...]:
            seeded = replace(config, seed=config.seed + seed)
            fitted = fit_attentive(tokens[0], targets[0], tokens[1], targets[1], len(classes), seeded)
            predicted = fitted.probe.scores(tokens[2]).argmax(axis=1)
            return accuracies(predicted, test.keys, test.labels, classes)[:1]

        return with_head_seeds(config.head_seeds, score)


class RetrievalTask:
    """Whether pictures of a class lie near one another."""

    name = "retrieval"
    failures: tuple[InputError, ...] = ()

    def __init__(self, pictures: LabelledImages) -> None:
        """DataError where no class has two pictures, or there is a single class."""
        if len(set(pictures.labels)) < 2:
            raise DataError(f"{pictures.name} has a single class; retrieval needs at least two")
        if len(set(pictures.labels)) == len(pictures.labels):
            raise DataError(f"{pictures.name} has one picture of each class; retrieval needs a second one to find")
        self.labelled = pictures

    @property
    def digest(self) -> str:
        """Of the labels."""
        return _digest({"interval": "jackknife"}, self.labelled.labels)

    @cached_property
    def _images(self) -> LayerImages:
        return layer_images(self.labelled, f"{self.name}, test")

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """The measured pictures; they ask, and are found."""
        return (self._images,)

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """Mean average precision and R@1 over the pictures that have another of their class.

        A picture asks, and is found by others: intervals are of what it contributes in both ways.
        """
        found = _labelled(features[0], self.labelled)
        _, labels = np.unique(found.labels, return_inverse=True)
        vectors = unit(found.vectors)
        whole, without = average_precision(vectors, labels), average_precision_without(vectors, labels)
        if np.isnan(whole[0]).all():
            raise DataError(
                f"{self.labelled.name}: no class has two pictures that can be decoded; nothing can be found"
            )
        scores = [
            ItemScores.of(name, contributions(float(np.nanmean(each)), _column_means(less)), found.keys)
            for name, each, less in zip(("mean average precision", "R@1"), whole, without, strict=True)
        ]
        return tuple(LayerScore.of(score, "mean") for score in scores)


def rank_others(
    vectors: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]
) -> Iterator[tuple[Int[np.ndarray, " n-1"], np.ndarray]]:
    """For each picture the places of all others, the likest first, and which of them have its label, bool.

    `vectors` are unit. Of equal similarities the foreign picture comes first, so that vectors that are all the same
    find nothing early.
    """
    for row, vector in enumerate(vectors):
        similarity = vectors @ vector
        own = labels == labels[row]
        others = np.delete(np.arange(len(vectors)), row)
        order = others[np.lexsort((own[others], -similarity[others]))]
        yield order, own[order]


def average_precision(
    vectors: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Of each picture, which asks for all others of its label: average precision, and whether the first is one, 0 or 1.

    `vectors` are unit; of equal ones see `rank_others`. NaN where no other picture has the label.
    """
    precision, first = np.full((2, len(vectors)), np.nan)
    for row, (_, hits) in enumerate(rank_others(vectors, labels)):
        if hits.any():
            ranks = np.flatnonzero(hits) + 1
            precision[row] = (np.arange(1, len(ranks) + 1) / ranks).mean()
            first[row] = hits[0]
    return precision, first


def average_precision_without(
    vectors: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """`average_precision` of each picture (row) where another one (column) is not there; NaN where nothing is to find.

    What is behind the one that is gone comes a rank earlier, and one hit fewer precedes it if that one was a hit.
    """
    precision, first = np.full((2, len(vectors), len(vectors)), np.nan)
    for row, (order, hits) in enumerate(rank_others(vectors, labels)):
        ranks, found = np.arange(1, len(order) + 1), hits.cumsum()
        earlier = np.maximum(ranks - 1, 1)
        before = np.where(hits, found / ranks, 0).cumsum() - np.where(hits, found / ranks, 0)
        behind = np.where(hits, _sums_behind(hits * (found - 1) / earlier), _sums_behind(hits * found / earlier))
        left = found[-1] - hits
        precision[row, order] = np.where(left > 0, (before + behind) / np.maximum(left, 1), np.nan)
        first[row, order] = np.where(left > 0, hits[0], np.nan)
        if left[0] > 0:
            first[row, order[0]] = hits[1]
    return precision, first


def _sums_behind(values: np.ndarray) -> np.ndarray:
    """At each place the sum of all later ones."""
    return np.asarray(values[::-1].cumsum()[::-1] - values)


def _column_means(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """The mean of what is there of each column, NaN of none."""
    count = np.isfinite(values).sum(axis=0)
    return np.divide(np.nansum(values, axis=0), count, out=np.full(len(values), np.nan), where=count > 0)


def load_labels(
    place: Path, config: LabelledConfig | None = None, split: str = "test", held_out: HeldOut | None = None
) -> Splits:
    """The classification tasks of a place as one, with as many pictures of each class.

    Coarse labels of the same pictures and classes that are never trained on are left out. Errors as those of
    `load_splits`.
    """
    items = (config or LabelledConfig()).items
    tasks = {
        name: task
        for name, task in load_splits(place, split, options=ClassOptions(held_out=held_out)).items()
        if "/" not in name
    }
    if not tasks:
        raise DataError(
            f"{place} has no task with labels that are trained on; give labelled pictures in train and {split}"
        )
    joined = {
        part: _join([getattr(task, part) for task in tasks.values()], "+".join(tasks), len(tasks) > 1)
        for part in ("train", "val", "test")
    }
    classes = len(set(joined["test"].labels))
    if classes < 2:
        raise DataError(f"{place} has only the class {joined['test'].labels[0]!r}; a task needs at least two")
    return Splits(
        train=_thin(joined["train"], 2 * items, classes),
        val=_thin(joined["val"], items // 2, classes),
        test=_thin(joined["test"], items, classes),
    )


def _join(parts: Sequence[LabelledImages], name: str, several: bool) -> LabelledImages:
    """Tasks as one; where there are several, the task's name leads each key and label."""
    rows = [
        (f"{part.name}/{key}", source, f"{part.name}/{label}") if several else (key, source, label)
        for part in parts
        for key, source, label in zip(part.keys, part.images, part.labels, strict=True)
    ]
    keys, sources, labels = zip(*rows, strict=True)
    return LabelledImages(name, keys, sources, labels)


def _thin(task: LabelledImages, items: int, classes: int) -> LabelledImages:
    """At most `items` pictures, as many of each class, always the same ones; two of each, if there are, in any case."""
    by_label: dict[str, list[int]] = defaultdict(list)
    order = sorted(range(len(task.keys)), key=lambda row: hashlib.sha256(task.keys[row].encode()).digest())
    for row in order:
        by_label[task.labels[row]].append(row)
    each = max(2, items // classes)
    rows = sorted(row for found in by_label.values() for row in found[:each])
    return task.select(rows)


def layer_images(task: LabelledImages, name: str) -> LayerImages:
    """Labelled pictures as they are encoded: whole, at the encoder's own size."""

    def open(place: int) -> list[Image.Image]:
        source, key = task.images[place], task.keys[place]
        if isinstance(source, Clip):
            raise InputError(key, "is a part of a video; layers are measured on pictures")
        return [open_image(source, key)]

    return LayerImages(name=name, keys=task.keys, open=open, compute_digest=lambda: content_digest(task.images))


def _labelled(features: LayerFeatures, task: LabelledImages) -> Features:
    """The means of a layer's patches, with the labels of those pictures that could be decoded; DataError for none."""
    if not len(features.rows):
        raise DataError(f"{task.name}: no picture can be decoded; the first: {features.failures[0]}")
    keys, labels = (tuple(these[row] for row in features.rows) for these in (task.keys, task.labels))
    return Features(features.mean(), keys, labels, features.failures)


def unit(vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Vectors made of length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _digest(settings: object, *labels: Sequence[str]) -> str:
    return hashlib.sha256(repr((settings, labels)).encode(errors="surrogatepass")).hexdigest()[:20]
