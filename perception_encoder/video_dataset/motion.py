"""Measure motion in a video as features of its interest (section 2.3, A.2, step 1), and object motion (ours).

Lengths are shares of the frame's diagonal.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
from av.codec.context import Flags2
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from perception_encoder.errors import MediaDecodeError, needs_extra
from perception_encoder.preprocess.source import Source, open_source
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.preprocess.video_file import decoding, open_container

_WIDTH, _BLOCK, _REACH = 160, 8, 5
"""Block matching in pixels: width of the frames, side of the blocks, and maximum shift."""
_COLLECT = 16
"""Frames after which memory is freed: PyAV's frames and their side data refer to each other."""
_NOISE = 2.0
"""Grey levels by which a shifted position must match better than the unshifted one."""


@dataclass(frozen=True)
class MotionFeatures:
    """Motion in a video."""

    rate: float
    """Frames per second."""
    frames: int
    key_frames: int
    """I-frames."""
    magnitude: float
    """Mean length of the vectors, weighted by the area of their blocks, as a share of the frame's diagonal."""
    variance: float
    """Variance of those lengths."""


def measure_motion(source: Source, name: str | None = None) -> MotionFeatures:
    """Decode a video and measure its motion. Raises what `read_frames` raises.

    The codec's own vectors cost only the decoding, but may point two or more frames back. Codecs whose decoder does not
    expose them (VP9, AV1, MJPEG and others) have their frames matched block by block: similar, not equal.
    """
    with open_source(source, name) as (stream, name), decoding(name):
        moments: list[np.ndarray] = []
        frames = key_frames = 0
        with open_container(stream, name) as (container, video):
            video.codec_context.flags2 |= Flags2.export_mvs
            rate = float(video.average_rate or video.guessed_rate or 0)
            for frame in container.decode(video):
                frames += 1
                key_frames += frame.pict_type == PictureType.I
                if (vectors := frame.side_data.get("MOTION_VECTORS")) is not None:
                    moments.append(_codec_moments(vectors.to_ndarray(), frame.width, frame.height))
                del frame, vectors
                if frames % _COLLECT == 0:
                    gc.collect(0)
        if not frames:
            raise MediaDecodeError(name, "has no frames that can be decoded")
        if not moments and frames > 1:
            with open_container(stream, name) as (container, video):
                reformatter = VideoReformatter()
                pairs = pairwise(_grey_blocks(frame, reformatter) for frame in container.decode(video))
                moments = [_moments(shift_lengths(*pair)) for pair in pairs]
    area, length, square = np.sum(moments, axis=0).tolist() if moments else (0.0, 0.0, 0.0)
    mean = length / (area or 1.0)
    variance = max(0.0, square / (area or 1.0) - mean**2)
    return MotionFeatures(rate, frames, key_frames, mean, variance)


def _codec_moments(vectors: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = np.maximum(vectors["motion_scale"], 1) * np.hypot(width, height)
    lengths = np.hypot(vectors["motion_x"], vectors["motion_y"]) / scale
    return _moments(lengths, vectors["w"].astype(float) * vectors["h"])


def _moments(lengths: np.ndarray, areas: float | np.ndarray = 1.0) -> np.ndarray:
    """Return a frame's sums of the vectors' areas, areas times lengths, and areas times squared lengths, (3,)."""
    areas = np.broadcast_to(areas, lengths.shape)
    return np.array([areas.sum(), (areas * lengths).sum(), (areas * lengths**2).sum()])


def shift_lengths(before: UInt8[np.ndarray, "H W"], after: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """Match a frame's blocks to the previous frame; return each block's shift as a share of the diagonal."""
    height, width = (side - side % _BLOCK for side in after.shape)
    padded = np.pad(before.astype(np.int16), _REACH, mode="edge")
    target = after[:height, :width].astype(np.int16)
    reach = range(-_REACH, _REACH + 1)
    steps = sorted(((dy, dx) for dy in reach for dx in reach), key=lambda step: np.hypot(*step))
    best = np.full((height // _BLOCK, width // _BLOCK), np.inf)
    length = np.zeros_like(best)
    for dy, dx in steps:  # the shortest first, so that a flat block does not move
        shifted = padded[_REACH + dy : _REACH + dy + height, _REACH + dx : _REACH + dx + width]
        error = np.abs(target - shifted).reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).mean(axis=(1, 3))
        better = error < best - (_NOISE if (dy, dx) != (0, 0) else 0)
        best, length = np.where(better, error, best), np.where(better, np.hypot(dy, dx), length)
    return length / np.hypot(*after.shape)


def _grey_blocks(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    height = max(_BLOCK, round(_WIDTH * frame.height / frame.width))
    return reformatter.reformat(frame, width=_WIDTH, height=height, format="gray", threads=1).to_ndarray()


RATE = 8.0
"""Compared frames per second."""
MAX_SECONDS = 120.0
"""Maximum seconds to measure, from the beginning."""
REGION_SIZES = {"small": 0.003, "medium": 0.01, "large": 0.03}
"""Minimum sizes of counted regions, as shares of a frame, summed over the frames."""
AREA_PERCENTILES = (10, 25, 50, 75, 90, 100)
_SIDE, _MIN_SIDE = 80, 16
"""Size of the compared frames in pixels: the longer side, and the minimum shorter side."""
_MOVES, _MOVING = 0.006, 0.01
"""A pixel moves if its difference is above this share of the diagonal, a frame if above this share of it moves."""
_FITS = 6
"""Rounds of fitting the plane; pixels that fit badly count less in the next."""


@dataclass(frozen=True)
class ObjectMotion:
    """Motion besides the camera's; areas are shares of the frame."""

    moving: float
    """Share of frames in which something moves."""
    starts: int
    """Number of times motion starts while everything is still."""
    regions: tuple[int, ...]
    """Number of moving regions, connected in the image and in time, of at least each of `REGION_SIZES`."""
    areas: tuple[float, ...]
    """The `AREA_PERCENTILES` of the moving area of a frame."""

    def columns(self) -> dict[str, float]:
        """Return the numbers by name."""
        regions = {f"regions_{size}": float(count) for size, count in zip(REGION_SIZES, self.regions, strict=True)}
        areas = {f"area_p{rank}": area for rank, area in zip(AREA_PERCENTILES, self.areas, strict=True)}
        return {"moving": self.moving, "starts": float(self.starts), **regions, **areas}


NO_MOTION = ObjectMotion(0.0, 0, (0,) * len(REGION_SIZES), (0.0,) * len(AREA_PERCENTILES))


def measure_object_motion(source: Source, name: str | None = None) -> ObjectMotion:
    """Decode a video and measure motion besides the camera's; MissingExtraError without scikit-image."""
    with needs_extra("eval", "scipy"):
        from scipy.ndimage import label
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
        regions=tuple(int((sizes >= minimum).sum()) for minimum in REGION_SIZES.values()),
        areas=tuple(np.percentile(areas, AREA_PERCENTILES).tolist()),
    )


def moving_pixels(differences: Float[np.ndarray, "F h w"]) -> Bool[np.ndarray, "F h w"]:
    """Return which pixels move; `differences`: of the flow from the camera's, as shares of the diagonal.

    What stands out of the plane that the camera's flow is fitted to differs all the time: it does not move.
    """
    from scipy.ndimage import uniform_filter

    smooth = uniform_filter(differences, (0, 3, 3))
    return smooth - np.median(smooth, axis=0) > _MOVES


def camera_flow(flow: Float[np.ndarray, "2 h w"]) -> Float[np.ndarray, "2 h w"]:
    """Return the flow of a plane before a moving camera that best fits most of a flow (y, x), in pixels."""
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
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    one, none = np.ones_like(x), np.zeros_like(x)
    down = [none, none, none, one, x, y, x * y, y * y]
    right = [one, x, y, none, none, none, x * x, x * y]
    return np.stack([np.stack(down, axis=-1), np.stack(right, axis=-1)])


def _differences(source: Source, name: str | None) -> Iterator[Float[np.ndarray, "h w"]]:
    with needs_extra("eval", "scikit-image"):
        from skimage.registration import optical_flow_ilk
    frames = islice(sample_frames(source, name, 1 / RATE, side=2 * _SIDE), round(MAX_SECONDS * RATE))
    for before, after in pairwise(_small_grey(frame.image) for frame in frames):
        flow = optical_flow_ilk(before, after, radius=4, num_warp=3, dtype=np.float32)
        flow = np.nan_to_num(flow).clip(-_SIDE / 10, _SIDE / 10)
        rest = flow - camera_flow(flow)
        yield (np.hypot(*rest) / np.hypot(*before.shape)).astype(np.float32)


def _small_grey(image: Image.Image) -> Float[np.ndarray, "h w"]:
    scale = _SIDE / max(image.size)
    width, height = (max(_MIN_SIDE, round(side * scale)) for side in image.size)
    return np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX), np.float32) / 255
