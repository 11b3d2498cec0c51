"""Monocular depth by a head on one layer (section 3): RMSE, absolute relative error, and shares within 1.25ⁿ.

Every metric is an image's own, over its pixels of known depth at the depth's own size, averaged over images and over
the seeds of the head. Images of one sequence are resampled together for intervals.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Bool, Float

from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.depth import DepthConfig, DepthHeadConfig, fit_depth
from perception_encoder.dense_prediction.head_fitting import take
from perception_encoder.errors import InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest, settings_digest
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator
from perception_encoder.evaluation.statistics.scores import HEAD_SEEDS, ItemScores, Label
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

EIGEN_CROP = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
"""Top, bottom, left and right of the scored region, as shares of the sides (Eigen et al., 2014)."""
DELTA = 1.25


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How depth is evaluated."""

    head: DepthHeadConfig = field(default_factory=DepthConfig)
    """An evaluator fits a `DepthConfig`; of others only the range counts."""
    eigen_crop: bool = False
    """Leave out the frame of NYU's images that has no depth."""
    aligned: bool = False
    """First scale each prediction to the true median, for images that do not show how large objects are,
    such as rendered scenes of cars and pens (Eigen et al., 2014; Zhou et al., 2017). Relative error comes first."""


class DepthEvaluator(HeadEvaluator):
    """Depth of pixels by a head on one layer: RMSE, relative error (first if medians are aligned), shares in 1.25ⁿ.

    Warns once if most of the known depth is out of range: `per_metre` may be wrong.
    """

    def __init__(
        self,
        train: DepthImages,
        test: DepthImages,
        protocol: DepthProtocol | None = None,
        image_size: tuple[int, int] | None = None,
        name: str = "depth",
        head_seeds: int = HEAD_SEEDS,
    ) -> None:
        """Images are left out if their depth cannot be decoded or has no value within the range."""
        self.train, self.test, self.protocol = train, test, protocol or DepthProtocol()
        whole = replace(self.protocol, eigen_crop=False)  # training images are never cropped
        self._pixels = np.zeros(2, dtype=np.int64)  # those of known depth, and those within the range
        targets = partial(self._known, train, whole), partial(self._known, test, self.protocol)
        super().__init__(name, (train, targets[0]), (test, targets[1]), self.protocol.head, image_size, head_seeds)
        self.label = Label(
            task=test.name,
            method="depth head, medians aligned" if self.protocol.aligned else "depth head",
            settings={"channels": str(self.head.channels), "per metre": f"{test.per_metre:g}"},
        )

    @cached_property
    def digest(self) -> str:
        parts = [(part.per_metre, content_digest(part.depths)) for part in (self.train, self.test)]
        return settings_digest(self.protocol, self.head_seeds, self.test.blocks, parts)

    def inputs(self, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the images with usable depth; warn once if most of the known depth is out of range."""
        first, images = not self._inputs, super().inputs(track)
        known, inside = self._pixels.tolist()
        if first and known > 2 * inside:
            outside = f"{100 * (known - inside) / known:.0f} % of the known depth"
            limits = f"{self.head.nearest:g} to {self.head.farthest:g} m"
            units = f"{self.test.per_metre:g} units a metre, see --per-metre"
            logger.warning(
                "%s: %s is not within %s and is ignored; it was read with %s", self.test.name, outside, limits, units
            )
        return images

    def _known(self, images: DepthImages, protocol: DepthProtocol, index: int) -> None:
        """Raise InputError for an image whose depth cannot be decoded or has no scored pixel."""
        depth = images.depth(index)
        self._pixels += (depth > 0).sum(), protocol.head.within(depth).sum()
        scored_pixels(images.keys[index], depth, protocol)

    def fit(self, head: DepthConfig, train: CachedTokens, test: CachedTokens, track: Track) -> list[ItemScores]:
        fitted = fit_depth(train.patches, lambda row: self.train.depth(int(train.rows[row])), head, track)
        maps, keys = test.patches, [self.test.keys[row] for row in test.rows]
        errors = []
        for index, row in enumerate(track(test.rows, "predicting depth", len(keys))):
            truth = self.test.depth(int(row))
            predicted = fitted.predict(take(maps, slice(index, index + 1)), (truth.shape[0], truth.shape[1]))
            errors.append(depth_errors(keys[index], predicted[0].numpy(), truth, self.protocol))
        return [
            ItemScores.of(
                name,
                np.array([row[name] for row in errors]),
                keys,
                blocks=[self.test.blocks[row] for row in test.rows],
                unit={"RMSE": "m", "abs rel": ""}.get(name, "%"),
                lower_is_better=name in ("RMSE", "abs rel"),
            )
            for name in errors[0]
        ]


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
