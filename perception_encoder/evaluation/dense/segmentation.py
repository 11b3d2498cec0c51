"""Semantic segmentation by a linear head on one layer (section 3): mIoU and pixel accuracy.

A class's IoU is over the pixels of all images together; the mean is over the classes that occur or were predicted.
Pixels are compared at the mask's own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from perception_encoder.datasets.class_masks import ClassMasks
from perception_encoder.datasets.image_set import keep_trained
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.dense_prediction.segmentation import Labels, SegmentationConfig, fit_segmentation
from perception_encoder.errors import InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import check_maps, content_digest, settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator, check_rows
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, ItemScores, check_head_seeds, with_head_seeds
from perception_encoder.progress import Track, untracked


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol:
    """How segmentation is evaluated."""

    head: SegmentationConfig = field(default_factory=SegmentationConfig)
    head_seeds: int = HEAD_SEEDS
    """Heads to fit, each with its own seed; one gives no interval."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


class SegmentationEvaluator(HeadEvaluator):
    """Classes of pixels, predicted by a linear head on one layer."""

    def __init__(
        self,
        train: ClassMasks,
        test: ClassMasks,
        protocol: SegmentationProtocol | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "segmentation",
        track: Track = untracked,
    ) -> None:
        """Classes absent from the training images are not scored; images without a class are left out."""
        self.train, self.test = keep_trained(train, test, track)
        super().__init__(name, (self.train, known_labels(self.train)), (self.test, known_labels(self.test)), image_size)
        self.protocol = protocol or SegmentationProtocol()

    @cached_property
    def digest(self) -> str:
        """Digest of the masks, their classes, and the settings."""
        parts = [(part.classes, part.numbers, content_digest(part.masks)) for part in (self.train, self.test)]
        return settings_digest(self.protocol, parts)

    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Fit and test heads: mIoU first."""
        train, test = check_rows(self.name, features)
        scores = score_segmentation(
            train.patches,
            lambda row: self.train.labels(int(train.rows[row])),
            test.patches,
            lambda row: self.test.labels(int(test.rows[row])),
            [self.test.keys[row] for row in test.rows],
            len(self.train.classes),
            self.protocol,
            track,
        )
        return Measurement(
            task=self.test.name,
            method="linear segmentation",
            classes=len(self.train.classes),
            settings={
                "layer": str(test.layer),
                "train": str(len(train.rows)),
                "kernel": str(self.protocol.head.kernel),
                "head seeds": str(self.protocol.head_seeds),
            },
            scores=scores,
        )


def score_segmentation(
    train: Maps,
    train_labels: Labels,
    test: Maps,
    test_labels: Labels,
    keys: Sequence[str],
    classes: int,
    protocol: SegmentationProtocol | None = None,
    track: Track = untracked,
) -> tuple[ItemScores, ...]:
    """Fit on some images' features and test on others, named by `keys`: `mIoU` and `pixels` (pixel accuracy).

    Each head seed has its own scores. ModelError for features that are not finite. Before the head is fitted:
    InputError, naming the image, for one without a label, DataError if training images show a single class.
    """
    protocol = protocol or SegmentationProtocol()
    check_maps(train, "segmentation, training images")
    check_maps(test, "segmentation", keys)
    for index, key in enumerate(keys):
        check_labels(key, test_labels(index))

    def score(seed: int) -> tuple[ItemScores, ...]:
        config = replace(protocol.head, fit=protocol.head.fit.with_seed(seed))
        head = fit_segmentation(train, train_labels, classes, config, track)
        inside, either = np.zeros((2, len(keys), classes))
        for index in track(range(len(keys)), "segmenting", len(keys)):
            truth = test_labels(index)
            predicted = head.predict(take(test, slice(index, index + 1)), (truth.shape[0], truth.shape[1]))[0].numpy()
            inside[index], either[index] = overlaps(predicted, truth, classes)
        return overlap_scores(inside, either, keys)

    return with_head_seeds(protocol.head_seeds, score)


def check_labels(key: str, labels: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Return an image's labels unchanged; InputError if no pixel has one."""
    if not (labels >= 0).any():
        raise InputError(key, "its mask is empty: no pixel has a scored class")
    return labels


def known_labels(images: ClassMasks) -> Labels:
    """Return a function that reads an image's labels; InputError if they cannot be decoded or no pixel has a class."""
    return lambda index: check_labels(images.keys[index], images.labels(index))


def overlaps(
    predicted: Int[np.ndarray, "H W"], truth: Int[np.ndarray, "H W"], classes: int
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Count each class's pixels in the intersection and in the union, where the truth has a class."""
    known = truth >= 0
    predicted, truth = predicted[known].astype(np.int64), truth[known].astype(np.int64)
    inside = np.bincount(truth[predicted == truth], minlength=classes)
    return inside, np.bincount(predicted, minlength=classes) + np.bincount(truth, minlength=classes) - inside


def overlap_scores(inside: np.ndarray, either: np.ndarray, keys: Sequence[str]) -> tuple[ItemScores, ...]:
    """Score `mIoU` and `pixels` from overlaps (n, K), with one entry per image and class."""
    count, classes = either.shape
    shares = np.divide(inside, either, out=np.zeros(either.shape), where=either > 0)
    owners, groups = np.repeat(np.arange(count), classes), np.tile(np.arange(classes), count)
    known = (either.sum(axis=1) + inside.sum(axis=1)) / 2  # a wrong pixel is in the union of two classes
    return (
        ItemScores.of("mIoU", shares.ravel(), keys, owners=owners, groups=groups, weights=either.ravel()),
        ItemScores.of("pixels", inside.sum(axis=1) / known, keys, weights=known),
    )
