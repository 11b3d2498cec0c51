"""Semantic segmentation by a linear head on one layer (section 3): mIoU and pixel accuracy.

A class's IoU is over the pixels of all images together; the mean is over the classes that occur or were predicted.
Pixels are compared at the mask's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
from jaxtyping import Int

from perception_encoder.datasets.class_masks import ClassMasks
from perception_encoder.datasets.labelled import keep_trained
from perception_encoder.dense_prediction.head_fitting import take
from perception_encoder.dense_prediction.segmentation import SegmentationConfig, fit_segmentation
from perception_encoder.errors import InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import content_digest, settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, ItemScores, Label
from perception_encoder.progress import Track, untracked


class SegmentationEvaluator(HeadEvaluator):
    """Classes of pixels, predicted by a linear head on one layer: mIoU first, then the share of correct pixels.

    DataError if the training images show a single class.
    """

    def __init__(
        self,
        train: ClassMasks,
        test: ClassMasks,
        head: SegmentationConfig | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "segmentation",
        head_seeds: int = HEAD_SEEDS,
        track: Track = untracked,
    ) -> None:
        """Classes absent from the training images are not scored; images without a class are left out."""
        self.train, self.test = keep_trained(train, test, track)
        sets = [(images, partial(_known_labels, images)) for images in (self.train, self.test)]
        super().__init__(name, sets[0], sets[1], head or SegmentationConfig(), image_size, head_seeds)
        self.label = Label(
            task=self.test.name,
            method="linear segmentation",
            classes=len(self.train.classes),
            settings={"kernel": str(self.head.kernel)},
        )

    @cached_property
    def digest(self) -> str:
        parts = [(part.classes, part.numbers, content_digest(part.masks)) for part in (self.train, self.test)]
        return settings_digest(self.head, self.head_seeds, parts)

    def fit(
        self, head: SegmentationConfig, train: CachedTokens, test: CachedTokens, track: Track
    ) -> tuple[ItemScores, ...]:

        def labels(row: int) -> Int[np.ndarray, "H W"]:
            return self.train.labels(int(train.rows[row]))

        classes = len(self.train.classes)
        fitted = fit_segmentation(train.patches, labels, classes, head, track)
        maps, keys = test.patches, [self.test.keys[row] for row in test.rows]
        inside, either = np.zeros((2, len(keys), classes))
        for index, row in enumerate(track(test.rows, "segmenting", len(keys))):
            truth = self.test.labels(int(row))
            predicted = fitted.predict(take(maps, slice(index, index + 1)), (truth.shape[0], truth.shape[1]))
            inside[index], either[index] = overlaps(predicted[0].numpy(), truth, classes)
        return overlap_scores(inside, either, keys)


def _known_labels(images: ClassMasks, index: int) -> Int[np.ndarray, "H W"]:
    """Read an image's labels; InputError if they cannot be decoded or no pixel has a class."""
    labels = images.labels(index)
    if not (labels >= 0).any():
        raise InputError(images.keys[index], "its mask is empty: no pixel has a scored class")
    return labels


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
