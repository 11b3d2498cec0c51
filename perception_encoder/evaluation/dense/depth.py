"""Monocular depth by a head on one layer (section 3): RMSE, absolute relative error, and shares within 1.25ⁿ.

Every figure is an image's own, over its pixels of known depth, averaged over images and over the seeds of the head, as
is usual on NYU but for the seeds. Images of one sequence are drawn together for intervals. Pixels are compared at the
depth's own size. With NYU's 640x480 frames, take `eigen_crop`, as published figures do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from perception_encoder.datasets.rgbd import DepthPictures
from perception_encoder.dense_prediction.depth import DepthConfig, Depths, fit_depth
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.errors import InputError
from perception_encoder.evaluation.dense.features import check_finite, encode_both
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.estimate import check_scipy
from perception_encoder.evaluation.statistics.resampling import HEAD_SEEDS
from perception_encoder.evaluation.statistics.scores import ItemScores, check_head_seeds, measure_all, with_head_seeds
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

EIGEN_CROP = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
"""Top, bottom, left and right of what is scored, in shares of the sides; Eigen et al. (2014)."""
DELTA = 1.25


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How depth is measured."""

    head: DepthConfig = field(default_factory=DepthConfig)
    head_seeds: int = HEAD_SEEDS
    """Heads that are fitted, each with another seed; with one there is no interval."""
    eigen_crop: bool = False
    """Leave out the frame of NYU's pictures that has no depth."""
    aligned: bool = False
    """First multiply each guess so that its median is right, where pictures do not tell how large things are, as in
    rendered scenes of cars and of pens (Eigen et al., 2014; Zhou et al., 2017). Then the relative error leads."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are squashed to; the encoder's own by default."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


def measure_depth(
    encoder: LayerEncoder,
    layer: int,
    train: DepthPictures,
    test: DepthPictures,
    protocol: DepthProtocol | None = None,
    track: Track = untracked,
) -> tuple[tuple[Measurement, ...], tuple[InputError, ...]]:
    """Fit a head on one layer's features of `train`, and measure it on `test`.

    Pictures that cannot be decoded, or their depth, or that show no depth within the range are left out, and their
    errors returned. Raises DataError where none is left, ConfigError for a layer that does not exist, and ModelError
    for features that are not finite.
    """
    protocol = protocol or DepthProtocol()
    check_scipy()
    depths = known_depths(train, test, protocol)
    learned, shown = encode_both(encoder, layer, (train, depths[0]), (test, depths[1]), protocol.image_size, track)
    warn_of_range(*depths)
    blocks = [test.blocks[int(row)] for row in shown.rows]
    scores = score_depth(learned.maps, learned.truth, shown.maps, shown.truth, shown.keys, protocol, track, blocks)
    settings = {
        "layer": str(layer),
        "train": str(len(learned.rows)),
        "channels": str(protocol.head.channels),
        "head seeds": str(protocol.head_seeds),
        "per metre": f"{test.per_metre:g}",
    }
    method = "depth head, medians aligned" if protocol.aligned else "depth head"
    found = Measurement(test.name, method, "squash", "", 0, measure_all(scores), settings, scores)
    return (found,), learned.failures + shown.failures


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
    """Fit on features of pictures and measure on others, whose names are `keys`: `RMSE` first, or `abs rel` if aligned.

    `blocks`: the sequence of each, or its own name; by default each is a block. Each head seed has its own scores.
    ModelError where features are not finite. Before the head is fitted: InputError, naming the picture, where no depth
    to be measured is known, DataError where there is none to learn from.
    """
    protocol = protocol or DepthProtocol()
    check_finite(train, "depth, training pictures")
    check_finite(test, "depth", keys)
    for place, key in enumerate(keys):
        scored_pixels(key, test_depths(place), protocol)
    blocks = keys if blocks is None else blocks
    score = partial(_score_head, train, train_depths, test, test_depths, keys, protocol, track, blocks)
    return with_head_seeds(protocol.head_seeds, score)


def _score_head(
    train: Maps,
    train_depths: Depths,
    test: Maps,
    test_depths: Depths,
    keys: Sequence[str],
    protocol: DepthProtocol,
    track: Track,
    blocks: Sequence[str],
    seed: int,
) -> tuple[ItemScores, ...]:
    """The scores of a head of one seed."""
    config = replace(protocol.head, fit=protocol.head.fit.with_seed(seed))
    head = fit_depth(train, train_depths, config, track)
    rows = []
    for place, key in enumerate(track(keys, "measuring depth", len(keys))):
        truth = test_depths(place)
        guess = head.predict(take(test, slice(place, place + 1)), (truth.shape[0], truth.shape[1]))[0].numpy()
        rows.append(depth_errors(key, guess, truth, protocol))
    return tuple(
        ItemScores.of(
            name,
            np.array([row[name] for row in rows]),
            list(keys),
            blocks=blocks,
            unit={"RMSE": "m", "abs rel": ""}.get(name, "%"),
            lower_is_better=name in ("RMSE", "abs rel"),
        )
        for name in rows[0]
    )


def depth_errors(
    key: str, guess: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "H W"], protocol: DepthProtocol
) -> dict[str, float]:
    """A picture's figures from depths in metres; InputError where no depth is known within the range."""
    known = scored_pixels(key, truth, protocol)
    true = truth[known].astype(np.float64)
    found = guess[known].astype(np.float64)
    if protocol.aligned:
        found *= np.median(true) / np.median(found)
    found = np.clip(found, protocol.head.nearest, protocol.head.farthest)
    ratio = np.maximum(true / found, found / true)
    shares = {f"delta{power}": float((ratio < DELTA**power).mean()) for power in (1, 2, 3)}
    errors = {
        "RMSE": float(np.sqrt(((found - true) ** 2).mean())),
        "abs rel": float((abs(found - true) / true).mean()),
    }
    return {name: errors[name] for name in sorted(errors, reverse=protocol.aligned)} | shares


def scored_pixels(key: str, depth: Float[np.ndarray, "H W"], protocol: DepthProtocol) -> Bool[np.ndarray, "H W"]:
    """The pixels of known depth within the range, and the crop if there is one; InputError where there is none."""
    known = protocol.head.within(depth)
    if protocol.eigen_crop:
        top, bottom = (round(share * depth.shape[0]) for share in EIGEN_CROP[:2])
        left, right = (round(share * depth.shape[1]) for share in EIGEN_CROP[2:])
        inside = np.zeros_like(known)
        inside[top:bottom, left:right] = True
        known &= inside
    if not known.any():
        span = f"{protocol.head.nearest:g} to {protocol.head.farthest:g} m"
        raise InputError(key, f"no pixel has a known depth of {span}; if none has, see the units (--per-metre)")
    return known


class KnownDepths:
    """The depths of pictures, each of which must show some that counts; and how much lies out of the range."""

    def __init__(self, pictures: DepthPictures, protocol: DepthProtocol) -> None:
        self.pictures, self.protocol = pictures, protocol
        self._counts: dict[int, tuple[int, int]] = {}

    def __call__(self, place: int) -> Float[np.ndarray, "H W"]:
        """The depth at a place in metres; InputError where it cannot be decoded or nothing of it counts."""
        depth = self.pictures.depth(place)
        self._counts[place] = int((depth > 0).sum()), int(self.protocol.head.within(depth).sum())
        scored_pixels(self.pictures.keys[place], depth, self.protocol)
        return depth

    @property
    def counts(self) -> Int[np.ndarray, " 2"]:
        """Over the depths that were asked for: pixels of known depth, and those of them within the range."""
        return np.array([*self._counts.values(), (0, 0)]).sum(axis=0)


def known_depths(train: DepthPictures, test: DepthPictures, protocol: DepthProtocol) -> tuple[KnownDepths, KnownDepths]:
    """The depths to learn from, which are never cropped, and those to measure on."""
    return KnownDepths(train, replace(protocol, eigen_crop=False)), KnownDepths(test, protocol)


def warn_of_range(*depths: KnownDepths) -> None:
    """Warn where most of the known depth is out of the range: its units may be others than were said."""
    known, inside = np.sum([each.counts for each in depths], axis=0).tolist()
    if known > 2 * inside:
        pictures, head = depths[-1].pictures, depths[-1].protocol.head
        logger.warning(
            "%s: %.0f %% of the known depth is not within %g to %g m and counts for nothing; %g units were taken for a "
            "metre, see --per-metre",
            *(pictures.name, 100 * (known - inside) / known, head.nearest, head.farthest, pictures.per_metre),
        )
