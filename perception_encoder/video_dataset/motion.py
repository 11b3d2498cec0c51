"""Motion features of a video: frame rate, frames, I-frames, and how far its blocks move (section 2.3, A.2, step 1).

The paper's are those, the mean and the variance. How often something begins to move, and for how long, is ours.

The codec's own motion vectors cost nothing but the decoding. A codec whose decoder does not give them (VP9, AV1, MJPEG
and others) has its frames compared block by block instead. Either way a vector's length is a share of the frame's
diagonal. The codec's vectors may point two or more frames back, so the two sources are alike, not equal: the table of
features says which one it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from av.codec.context import Flags2
from av.video.frame import PictureType, VideoFrame
from jaxtyping import Float, UInt8

from perception_encoder.errors import MediaDecodeError
from perception_encoder.preprocess.source import Source, open_source
from perception_encoder.preprocess.video_file import decoding, open_container

_WIDTH, _BLOCK, _REACH = 160, 8, 5
"""Of block matching: the frames' width, the blocks' side, and the farthest shift, in pixels."""
_MOVES, _MOVING = 0.004, 0.005
"""A block moves if its vector is longer than this share of the diagonal, a frame if more of it than this does."""
_NOISE = 2.0
"""Grey levels that another position must be better by, or the block has not moved."""


@dataclass(frozen=True)
class MotionFeatures:
    """Motion of a video."""

    rate: float
    """Frames a second."""
    frames: int
    key_frames: int
    """I-frames."""
    magnitude: float
    """Mean length of the vectors, weighted by the area of their blocks, as a share of the frame's diagonal."""
    variance: float
    """Variance of those lengths."""
    moving: float
    """Share of the frames in which something moves."""
    starts: int
    """How often something begins to move while all is still."""
    source: Literal["codec", "blocks"]


def measure_motion(source: Source, name: str | None = None) -> MotionFeatures:
    """Decode a video and measure its motion. Raises what `read_frames` raises."""
    with open_source(source, name) as (stream, name), decoding(name):
        lengths: list[np.ndarray] = []
        areas: list[np.ndarray] = []
        frames = key_frames = 0
        with open_container(stream, name) as (container, video):
            video.codec_context.flags2 |= Flags2.export_mvs
            rate = float(video.average_rate or video.guessed_rate or 0)
            for frame in container.decode(video):
                frames += 1
                key_frames += frame.pict_type == PictureType.I
                if (vectors := _codec_vectors(frame)) is not None:
                    lengths.append(vectors[0])
                    areas.append(vectors[1])
        if not frames:
            raise MediaDecodeError(name, "holds no frame that decodes")
        kind: Literal["codec", "blocks"] = "codec"
        if not lengths and frames > 1:
            kind = "blocks"
            with open_container(stream, name) as (container, video):
                lengths = [shift_lengths(*pair) for pair in pairwise(_small_grey(f) for f in container.decode(video))]
            areas = [np.ones_like(each) for each in lengths]
        values = np.concatenate(lengths) if lengths else np.zeros(1)
        weights = np.concatenate(areas) if areas else np.ones(1)
        mean = float(np.average(values, weights=weights))
        variance = float(np.average((values - mean) ** 2, weights=weights))
        pairs = zip(lengths, areas, strict=True)
        moves = [bool(len(own)) and np.average(own > _MOVES, weights=area) > _MOVING for own, area in pairs]
        starts = sum(now and not before for before, now in pairwise([False, *moves]))
        share = sum(moves) / len(moves) if moves else 0.0
        return MotionFeatures(rate, frames, key_frames, mean, variance, share, starts, kind)


def shift_lengths(before: UInt8[np.ndarray, "H W"], after: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "n"]:
    """Match the blocks of a frame to the frame before, and return how far each moved, as a share of the diagonal."""
    height, width = (side - side % _BLOCK for side in after.shape)
    padded = np.pad(before.astype(np.int16), _REACH, mode="edge")
    target = after[:height, :width].astype(np.int16)
    reach = range(-_REACH, _REACH + 1)
    steps = sorted(((dy, dx) for dy in reach for dx in reach), key=lambda step: np.hypot(*step))
    best = np.full((height // _BLOCK, width // _BLOCK), np.inf)
    length = np.zeros_like(best)
    for dy, dx in steps:  # the shortest first, so that a flat block stays
        shifted = padded[_REACH + dy : _REACH + dy + height, _REACH + dx : _REACH + dx + width]
        error = np.abs(target - shifted).reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).mean(axis=(1, 3))
        better = error < best - (_NOISE if (dy, dx) != (0, 0) else 0)
        best, length = np.where(better, error, best), np.where(better, np.hypot(dy, dx), length)
    return (length / np.hypot(*after.shape)).ravel()


def _codec_vectors(frame: VideoFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """The lengths of a frame's motion vectors, as a share of its diagonal, and their blocks' areas."""
    data = frame.side_data.get("MOTION_VECTORS")
    if data is None:
        return None
    vectors = data.to_ndarray()
    scale = np.maximum(vectors["motion_scale"], 1) * np.hypot(frame.width, frame.height)
    return np.hypot(vectors["motion_x"], vectors["motion_y"]) / scale, vectors["w"].astype(float) * vectors["h"]


def _small_grey(frame: VideoFrame) -> np.ndarray:
    height = max(_BLOCK, round(_WIDTH * frame.height / frame.width))
    return frame.reformat(width=_WIDTH, height=height, format="gray").to_ndarray()
