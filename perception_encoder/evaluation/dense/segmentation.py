"""Semantic segmentation by a linear head on one layer (section 3): mIoU and the share of pixels that are right.

A class's IoU is over the pixels of all pictures together; the mean is over the classes that are shown or were guessed.
Pixels are compared at the mask's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Int

from perception_encoder.datasets.class_masks import ClassMasks, keep_trained
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.dense_prediction.segmentation import Labels, SegmentationConfig, fit_segmentation
from perception_encoder.errors import InputError
from perception_encoder.evaluation.dense.features import check_finite, encode_both
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.estimate import check_scipy
from perception_encoder.evaluation.statistics.resampling import HEAD_SEEDS
from perception_encoder.evaluation.statistics.scores import ItemScores, check_head_seeds, measure_all, with_head_seeds
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol:
    """How segmentation is measured."""

    head: SegmentationConfig = field(default_factory=SegmentationConfig)
    head_seeds: int = HEAD_SEEDS
    """Heads that are fitted, each with another seed; with one there is no interval."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are squashed to; the encoder's own by default."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


def measure_segmentation(
    encoder: LayerEncoder,
    layer: int,
    train: ClassMasks,
    test: ClassMasks,
    protocol: SegmentationProtocol | None = None,
    track: Track = untracked,
) -> tuple[tuple[Measurement, ...], tuple[InputError, ...]]:
    """Fit a head on one layer's features of `train`, and measure it on `test`.

    Pictures that cannot be decoded, or their masks, or whose masks show no class are left out, and their errors
    returned; classes that no training picture shows are not scored. Raises DataError where no picture is left or all
    pixels are of one class, ConfigError for a layer that does not exist, and ModelError for features that are not
    finite.
    """
    protocol = protocol or SegmentationProtocol()
    check_scipy()
    train, test = keep_trained(train, test, track)
    sets = (train, known_labels(train)), (test, known_labels(test))
    learned, shown = encode_both(encoder, layer, *sets, protocol.image_size, track)
    count, features = len(train.classes), (learned.maps, learned.truth, shown.maps, shown.truth)
    scores = score_segmentation(*features, shown.keys, count, protocol, track)
    settings = {"layer": str(layer), "train": str(len(learned.rows)), "kernel": str(protocol.head.kernel)}
    settings |= {"head seeds": str(protocol.head_seeds)}
    found = Measurement(test.name, "linear segmentation", "squash", "", count, measure_all(scores), settings, scores)
    return (found,), learned.failures + shown.failures


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
    """Fit on features of pictures and measure on others, whose names are `keys`: `mIoU`, and `pixels`, those right.

    Each head seed has its own scores. ModelError where features are not finite. Before the head is fitted: InputError,
    naming the picture, for one without a label, DataError where training pictures show one class.
    """
    protocol = protocol or SegmentationProtocol()
    check_finite(train, "segmentation, training pictures")
    check_finite(test, "segmentation", keys)
    for place, key in enumerate(keys):
        check_labels(key, test_labels(place))
    score = partial(_score_head, train, train_labels, test, test_labels, keys, classes, protocol, track)
    return with_head_seeds(protocol.head_seeds, score)


def _score_head(
    train: Maps,
    train_labels: Labels,
    test: Maps,
    test_labels: Labels,
    keys: Sequence[str],
    classes: int,
    protocol: SegmentationProtocol,
    track: Track,
    seed: int,
) -> tuple[ItemScores, ...]:
    """The scores of a head of one seed."""
    config = replace(protocol.head, fit=protocol.head.fit.with_seed(seed))
    head = fit_segmentation(train, train_labels, classes, config, track)
    inside, either = np.zeros((2, len(keys), classes))
    for place in track(range(len(keys)), "measuring segmentation", len(keys)):
        truth = test_labels(place)
        guess = head.predict(take(test, slice(place, place + 1)), (truth.shape[0], truth.shape[1]))[0].numpy()
        inside[place], either[place] = overlaps(guess, truth, classes)
    return gather(inside, either, keys)


def check_labels(key: str, labels: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Return a picture's labels as they are; InputError where no pixel has one."""
    if not (labels >= 0).any():
        raise InputError(key, "its mask is empty: no pixel has a class that is scored")
    return labels


def known_labels(pictures: ClassMasks) -> Labels:
    """The labels of pictures by place; InputError where they cannot be decoded or no pixel has one."""
    return lambda place: check_labels(pictures.keys[place], pictures.labels(place))


def overlaps(
    guess: Int[np.ndarray, "H W"], truth: Int[np.ndarray, "H W"], classes: int
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Each class's pixels in both, and in either, where the truth has a class."""
    known = truth >= 0
    guess, truth = guess[known].astype(np.int64), truth[known].astype(np.int64)
    inside = np.bincount(truth[guess == truth], minlength=classes)
    return inside, np.bincount(guess, minlength=classes) + np.bincount(truth, minlength=classes) - inside


def gather(inside: np.ndarray, either: np.ndarray, keys: Sequence[str]) -> tuple[ItemScores, ...]:
    """`mIoU` and `pixels` of a set from its pictures' overlaps (n, K); an entry for each picture and class."""
    count, classes = either.shape
    shares = np.divide(inside, either, out=np.zeros(either.shape), where=either > 0)
    owners, groups = np.repeat(np.arange(count), classes), np.tile(np.arange(classes), count)
    known = (either.sum(axis=1) + inside.sum(axis=1)) / 2  # a wrong pixel is in the union of two classes
    return (
        ItemScores.of("mIoU", shares.ravel(), keys, owners=owners, groups=groups, weights=either.ravel()),
        ItemScores.of("pixels", inside.sum(axis=1) / known, keys, weights=known),
    )
