"""Monocular depth by a head on one layer (section 3): RMSE, absolute relative error, and shares within 1.25ⁿ.

Every figure is a picture's own, over its pixels of known depth, averaged over pictures, as is usual on NYU. Pixels are
compared at the depth's own size. With NYU's 640x480 frames, take `eigen_crop`, as published figures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from perception_encoder.data.progress import Track, untracked
from perception_encoder.data.rgbd import DepthPictures
from perception_encoder.dense_prediction.depth import DepthConfig, Depths, fit_depth
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.dense_features import check_finite, encode_both
from perception_encoder.evaluation.protocol import LayerEncoder
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.scores import ItemScores, measure

EIGEN_CROP = (45 / 480, 471 / 480, 41 / 640, 601 / 640)
"""Top, bottom, left and right of what is scored, in shares of the sides; Eigen et al. (2014)."""
DELTA = 1.25


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How depth is measured."""

    head: DepthConfig = field(default_factory=DepthConfig)
    eigen_crop: bool = False
    """Leave out the frame of NYU's pictures that has no depth."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are squashed to; the encoder's own by default."""


def measure_depth(
    encoder: LayerEncoder,
    layer: int,
    train: DepthPictures,
    test: DepthPictures,
    protocol: DepthProtocol | None = None,
    track: Track = untracked,
) -> tuple[tuple[Measurement, ...], tuple[InputError, ...]]:
    """Fit a head on one layer's features of `train`, and measure it on `test`.

    Pictures that cannot be decoded, or their depth, are left out, and their errors returned. Raises DataError where
    none is left or a depth is unknown everywhere, ConfigError for a layer that does not exist, and ModelError for
    features that are not finite.
    """
    protocol = protocol or DepthProtocol()
    sets = (train, train.depth), (test, test.depth)
    learned, shown = encode_both(encoder, layer, *sets, protocol.image_size, track)
    scores = score_depth(learned.maps, learned.truth, shown.maps, shown.truth, shown.keys, protocol, track)
    settings = {"layer": str(layer), "train": str(len(learned.rows)), "channels": str(protocol.head.channels)}
    found = Measurement(test.name, "depth head", "squash", "", 0, tuple(map(measure, scores)), settings, scores)
    return (found,), learned.failures + shown.failures


def score_depth(
    train: Maps,
    train_depths: Depths,
    test: Maps,
    test_depths: Depths,
    keys: Sequence[str],
    protocol: DepthProtocol | None = None,
    track: Track = untracked,
) -> tuple[ItemScores, ...]:
    """Fit on features of pictures and measure on others, whose names are `keys`: `RMSE` first.

    ModelError where features are not finite; DataError, naming the picture, where no depth is known.
    """
    protocol = protocol or DepthProtocol()
    check_finite(train, "depth, training pictures")
    check_finite(test, "depth", keys)
    head = fit_depth(train, train_depths, protocol.head, track)
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
            unit={"RMSE": "m", "abs rel": ""}.get(name, "%"),
            lower_is_better=name in ("RMSE", "abs rel"),
        )
        for name in rows[0]
    )


def depth_errors(
    key: str, guess: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "H W"], protocol: DepthProtocol
) -> dict[str, float]:
    """A picture's figures from depths in metres; DataError where no depth is known within the range."""
    known = (truth > protocol.head.nearest) & (truth < protocol.head.farthest)
    if protocol.eigen_crop:
        top, bottom = (round(share * truth.shape[0]) for share in EIGEN_CROP[:2])
        left, right = (round(share * truth.shape[1]) for share in EIGEN_CROP[2:])
        inside = np.zeros_like(known)
        inside[top:bottom, left:right] = True
        known &= inside
    if not known.any():
        raise DataError(f"{key}: no pixel has a known depth of at most {protocol.head.farthest} m")
    true = truth[known].astype(np.float64)
    found = np.clip(guess[known].astype(np.float64), protocol.head.nearest, protocol.head.farthest)
    ratio = np.maximum(true / found, found / true)
    shares = {f"delta{power}": float((ratio < DELTA**power).mean()) for power in (1, 2, 3)}
    rmse = float(np.sqrt(((found - true) ** 2).mean()))
    return {"RMSE": rmse, "abs rel": float((abs(found - true) / true).mean()), **shares}
