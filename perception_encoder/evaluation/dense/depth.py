"""Monocular depth by a head on one layer (section 3): RMSE, absolute relative error, and shares within 1.25ⁿ.

Every metric is an image's own, over its pixels of known depth, averaged over images and over the seeds of the head, as
is usual on NYU but for the seeds. Images of one sequence are resampled together for intervals. Pixels are compared at
the depth's own size. With NYU's 640x480 frames, set `eigen_crop`, as published results do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.depth import DepthConfig, Depths, fit_depth
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.errors import InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs, check_maps, content_digest, settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator, check_rows
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, ItemScores, check_head_seeds, with_head_seeds
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

EIGEN_CROP = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
"""Top, bottom, left and right of the scored region, as shares of the sides (Eigen et al., 2014)."""
DELTA = 1.25


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How depth is evaluated."""

    head: DepthConfig = field(default_factory=DepthConfig)
    head_seeds: int = HEAD_SEEDS
    """Heads to fit, each with its own seed; one gives no interval."""
    eigen_crop: bool = False
    """Leave out the frame of NYU's images that has no depth."""
    aligned: bool = False
    """First scale each prediction to the true median, for images that do not show how large objects are,
    such as rendered scenes of cars and pens (Eigen et al., 2014; Zhou et al., 2017). Relative error comes first."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


class DepthEvaluator(HeadEvaluator):
    """Depth of pixels, predicted by a head on one layer."""

    def __init__(
        self,
        train: DepthImages,
        test: DepthImages,
        protocol: DepthProtocol | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "depth",
    ) -> None:
        """Images are left out if their depth cannot be decoded or has no value within the range."""
        self.train, self.test, self.protocol = train, test, protocol or DepthProtocol()
        whole = KnownDepths(train, replace(self.protocol, eigen_crop=False))  # training images are never cropped
        self._known = whole, KnownDepths(test, self.protocol)
        super().__init__(name, (train, whole), (test, self._known[1]), image_size)

    @cached_property
    def digest(self) -> str:
        """Digest of the depths and the settings."""
        parts = [(part.per_metre, content_digest(part.depths)) for part in (self.train, self.test)]
        return settings_digest(self.protocol, self.test.blocks, parts)

    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the images; warn once if most of the known depth is out of range."""
        first = not self._images
        images = super().images(encoder, track)
        if first:
            warn_of_range(*self._known)
        return images

    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Fit and test heads: RMSE first, or relative error if predictions are aligned."""
        train, test = check_rows(self.name, features)
        protocol = self.protocol
        scores = score_depth(
            train.patches,
            lambda row: self.train.depth(int(train.rows[row])),
            test.patches,
            lambda row: self.test.depth(int(test.rows[row])),
            [self.test.keys[row] for row in test.rows],
            protocol,
            track,
            [self.test.blocks[row] for row in test.rows],
        )
        settings = {
            "layer": str(test.layer),
            "train": str(len(train.rows)),
            "channels": str(protocol.head.channels),
            "head seeds": str(protocol.head_seeds),
            "per metre": f"{self.test.per_metre:g}",
        }
        method = "depth head, medians aligned" if protocol.aligned else "depth head"
        return Measurement(task=self.test.name, method=method, settings=settings, scores=scores)


def score_depth(
    train: Maps,
    train_depths: Depths,
    test: Maps,
    test_depths: Depths,
    keys: Sequence[str],
    protocol: DepthProtocol | None = None,
    track: Track = untracked,
    blocks: Sequence[str] | None = None,
) -> tuple[ItemScores, ...]:
    """Fit on some images' features and test on others, named by `keys`: `RMSE` first, or `abs rel` if aligned.

    `blocks`: the sequence of each, or its own name; by default each is a block. Each head seed has its own scores.
    ModelError for features that are not finite. Before the head is fitted: InputError, naming the image, if a test
    image has no known depth, DataError if there is none to learn from.
    """
    protocol, blocks = protocol or DepthProtocol(), blocks or keys
    check_maps(train, "depth, training images")
    check_maps(test, "depth", keys)
    for index, key in enumerate(keys):
        scored_pixels(key, test_depths(index), protocol)

    def score(seed: int) -> list[ItemScores]:
        head = fit_depth(train, train_depths, replace(protocol.head, fit=protocol.head.fit.with_seed(seed)), track)
        rows = []
        for index, key in enumerate(track(keys, "predicting depth", len(keys))):
            truth = test_depths(index)
            predicted = head.predict(take(test, slice(index, index + 1)), (truth.shape[0], truth.shape[1]))[0].numpy()
            rows.append(depth_errors(key, predicted, truth, protocol))
        return [
            ItemScores.of(
                name,
                np.array([row[name] for row in rows]),
                list(keys),
                blocks=blocks,
                unit={"RMSE": "m", "abs rel": ""}.get(name, "%"),
                lower_is_better=name in ("RMSE", "abs rel"),
            )
            for name in rows[0]
        ]

    return with_head_seeds(protocol.head_seeds, score)


def depth_errors(
    key: str, predicted: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "H W"], protocol: DepthProtocol
) -> dict[str, float]:
    """Return an image's metrics from depths in metres; InputError if no known depth is within the range."""
    known = scored_pixels(key, truth, protocol)
    true = truth[known].astype(np.float64)
    depth = predicted[known].astype(np.float64)
    if protocol.aligned:
        depth *= np.median(true) / np.median(depth)
    depth = np.clip(depth, protocol.head.nearest, protocol.head.farthest)
    ratio = np.maximum(true / depth, depth / true)
    shares = {f"delta{power}": float((ratio < DELTA**power).mean()) for power in (1, 2, 3)}
    errors = {
        "RMSE": float(np.sqrt(((depth - true) ** 2).mean())),
        "abs rel": float((abs(depth - true) / true).mean()),
    }
    return {name: errors[name] for name in sorted(errors, reverse=protocol.aligned)} | shares


def scored_pixels(key: str, depth: Float[np.ndarray, "H W"], protocol: DepthProtocol) -> Bool[np.ndarray, "H W"]:
    """Return the pixels whose known depth is within the range and the crop; InputError if there are none."""
    known = protocol.head.within(depth)
    if protocol.eigen_crop:
        top, bottom = (round(share * depth.shape[0]) for share in EIGEN_CROP[:2])
        left, right = (round(share * depth.shape[1]) for share in EIGEN_CROP[2:])
        inside = np.zeros_like(known)
        inside[top:bottom, left:right] = True
        known &= inside
    if not known.any():
        span = f"{protocol.head.nearest:g} to {protocol.head.farthest:g} m"
        raise InputError(key, f"no pixel has a known depth of {span}; if all images fail so, check --per-metre")
    return known


class KnownDepths:
    """Depths of images, each with at least one scored pixel, and a count of the depth out of range."""

    def __init__(self, images: DepthImages, protocol: DepthProtocol) -> None:
        self.images, self.protocol = images, protocol
        self._counts: dict[int, tuple[int, int]] = {}

    def __call__(self, index: int) -> Float[np.ndarray, "H W"]:
        """Return a depth in metres; InputError if it cannot be decoded or has no scored pixel."""
        depth = self.images.depth(index)
        self._counts[index] = int((depth > 0).sum()), int(self.protocol.head.within(depth).sum())
        scored_pixels(self.images.keys[index], depth, self.protocol)
        return depth

    @property
    def counts(self) -> Int[np.ndarray, " 2"]:
        """Count the pixels with known depth in the depths read so far, and those within the range."""
        return np.array([*self._counts.values(), (0, 0)]).sum(axis=0)


def warn_of_range(*depths: KnownDepths) -> None:
    """Warn if most of the known depth is out of range: `per_metre` may be wrong for this dataset."""
    known, inside = np.sum([depth.counts for depth in depths], axis=0).tolist()
    if known > 2 * inside:
        images, head = depths[-1].images, depths[-1].protocol.head
        logger.warning(
            "%s: %.0f %% of the known depth is not within %g to %g m and is ignored; it was read with %g units a "
            "metre, see --per-metre",
            *(images.name, 100 * (known - inside) / known, head.nearest, head.farthest, images.per_metre),
        )
