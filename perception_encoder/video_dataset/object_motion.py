"""What moves in a video besides the camera: how long, how often, how much and in how many regions (ours).

The codec's vectors do not tell an object's motion from the camera's. Here the optical flow of one frame to the next
(scikit-image's iterative Lucas-Kanade) is compared with that of a plane before a moving camera, which is fitted to it.
What stands out of the plane differs from it all the time, so a pixel moves only while its difference is well above its
median over the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from perception_encoder.errors import MissingExtraError
from perception_encoder.preprocess.source import Source
from perception_encoder.preprocess.video import sample_frames

RATE = 8.0
"""Frames a second that are compared."""
LONGEST = 120.0
"""Seconds from the beginning that are looked at."""
REGION_SIZES = {"small": 0.003, "medium": 0.01, "large": 0.03}
"""The smallest regions that are counted, as shares of a frame, added up over the frames."""
AREA_PERCENTILES = (10, 25, 50, 75, 90, 100)
_SIDE, _LEAST_SIDE = 80, 16
"""Pixels of the longer side of the frames that are compared, and of the shorter one at least."""
_MOVES, _MOVING = 0.006, 0.01
"""A pixel moves if it stands out by this share of the diagonal, and a frame does if this share of it moves."""
_FITS = 6
"""Rounds of fitting the plane; what fits badly counts less in the next one."""


@dataclass(frozen=True)
class ObjectMotion:
    """What moves besides the camera. The area that moves is a share of the frame."""

    moving: float
    """Share of the frames in which something moves."""
    starts: int
    """How often something begins to move while all is still."""
    regions: tuple[int, ...]
    """Regions that move, each connected in the image and in time, of each of `REGION_SIZES` or larger."""
    areas: tuple[float, ...]
    """The `AREA_PERCENTILES` of the area that moves in a frame."""

    def columns(self) -> dict[str, float]:
        """Return the numbers by name."""
        regions = {f"regions_{size}": float(count) for size, count in zip(REGION_SIZES, self.regions, strict=True)}
        areas = {f"area_p{rank}": area for rank, area in zip(AREA_PERCENTILES, self.areas, strict=True)}
        return {"moving": self.moving, "starts": float(self.starts), **regions, **areas}


NO_MOTION = ObjectMotion(0.0, 0, (0,) * len(REGION_SIZES), (0.0,) * len(AREA_PERCENTILES))


def measure_object_motion(source: Source, name: str | None = None) -> ObjectMotion:
    """Decode a video and measure what moves besides the camera.

    Raises what `sample_frames` raises, and MissingExtraError without scikit-image.
    """
    try:
        from scipy.ndimage import label
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    differences = list(_differences(source, name))
    if not differences:
        return NO_MOTION
    moves = moving_pixels(np.stack(differences))
    areas = moves.mean(axis=(1, 2))
    moving = areas > _MOVING
    labels, _ = label(moves, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:] / moves[0].size
    return ObjectMotion(
        moving=float(moving.mean()),
        starts=int((moving & ~np.concatenate([[False], moving[:-1]])).sum()),
        regions=tuple(int((sizes >= least).sum()) for least in REGION_SIZES.values()),
        areas=tuple(np.percentile(areas, AREA_PERCENTILES).tolist()),
    )


def moving_pixels(differences: Float[np.ndarray, "F h w"]) -> Bool[np.ndarray, "F h w"]:
    """Return what moves; `differences`: how far the flow is from the camera's, as a share of the diagonal."""
    from scipy.ndimage import uniform_filter

    smooth = uniform_filter(differences, (0, 3, 3))
    return smooth - np.median(smooth, axis=0) > _MOVES


def camera_flow(flow: Float[np.ndarray, "2 h w"]) -> Float[np.ndarray, "2 h w"]:
    """Return the flow of a plane before a moving camera that is nearest to most of a flow (y, x), in pixels."""
    basis = _plane_flows(*flow.shape[1:])
    rows, target = basis[:, ::2, ::2].reshape(-1, 8), flow[:, ::2, ::2].reshape(-1)
    weights = np.ones(len(target) // 2)
    parameters = np.zeros(8)
    for _ in range(_FITS):
        weighted = rows * np.tile(weights, 2)[:, None]
        parameters = np.linalg.solve(weighted.T @ rows + 1e-6 * np.eye(8), weighted.T @ target)
        rest = np.hypot(*(target - rows @ parameters).reshape(2, -1))
        weights = 1 / (1 + (rest / max(0.05, 1.5 * float(np.median(rest)))) ** 2)
    return basis @ parameters


@lru_cache(maxsize=8)
def _plane_flows(height: int, width: int) -> Float[np.ndarray, "2 h w 8"]:
    """The eight flows whose sums are all those of a plane before a moving camera."""
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    one, none = np.ones_like(x), np.zeros_like(x)
    down = [none, none, none, one, x, y, x * y, y * y]
    right = [one, x, y, none, none, none, x * x, x * y]
    return np.stack([np.stack(down, axis=-1), np.stack(right, axis=-1)])


def _differences(source: Source, name: str | None) -> Iterator[Float[np.ndarray, "h w"]]:
    """Yield how far each frame's flow to the next is from the camera's, as a share of the diagonal."""
    try:
        from skimage.registration import optical_flow_ilk
    except ImportError:
        raise MissingExtraError("scikit-image", "eval") from None
    frames = islice(sample_frames(source, name, 1 / RATE, side=2 * _SIDE), round(LONGEST * RATE))
    for before, after in pairwise(_small_grey(frame.image) for frame in frames):
        flow = optical_flow_ilk(before, after, radius=4, num_warp=3, dtype=np.float32)
        flow = np.nan_to_num(flow).clip(-_SIDE / 10, _SIDE / 10)
        rest = flow - camera_flow(flow)
        yield (np.hypot(*rest) / np.hypot(*before.shape)).astype(np.float32)


def _small_grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    scale = _SIDE / max(image.size)
    width, height = (max(_LEAST_SIDE, round(side * scale)) for side in image.size)
    return np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX), np.float32) / 255
