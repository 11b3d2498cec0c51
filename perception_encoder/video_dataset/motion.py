"""Motion features of a video: frame rate, frames, I-frames, and how far its blocks move (section 2.3, A.2, step 1).

The codec's own motion vectors cost nothing but the decoding. A codec whose decoder does not give them (VP9, AV1, MJPEG
and others) has its frames compared block by block instead. Either way a vector's length is a share of the frame's
diagonal. The codec's vectors may point two or more frames back, so the two sources are alike, not equal: the table of
features says which one it was.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from av.codec.context import Flags2
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from perception_encoder.errors import MediaDecodeError
from perception_encoder.preprocess.source import Source, open_source
from perception_encoder.preprocess.video_file import decoding, open_container

_WIDTH, _BLOCK, _REACH = 160, 8, 5
"""Of block matching: the frames' width, the blocks' side, and the farthest shift, in pixels."""
_COLLECT = 16
"""Frames after which memory is freed: PyAV's frames and their side data refer to each other."""
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
    source: Literal["codec", "blocks"]


def measure_motion(source: Source, name: str | None = None) -> MotionFeatures:
    """Decode a video and measure its motion. Raises what `read_frames` raises."""
    with open_source(source, name) as (stream, name), decoding(name):
        moves: list[_FrameMotion] = []
        frames = key_frames = 0
        with open_container(stream, name) as (container, video):
            video.codec_context.flags2 |= Flags2.export_mvs
            rate = float(video.average_rate or video.guessed_rate or 0)
            for frame in container.decode(video):
                frames += 1
                key_frames += frame.pict_type == PictureType.I
                if (vectors := frame.side_data.get("MOTION_VECTORS")) is not None:
                    moves.append(_codec_motion(vectors.to_ndarray(), frame.width, frame.height))
                del frame, vectors
                if frames % _COLLECT == 0:
                    gc.collect(0)
        if not frames:
            raise MediaDecodeError(name, "holds no frame that decodes")
        kind: Literal["codec", "blocks"] = "codec"
        if not moves and frames > 1:
            kind = "blocks"
            with open_container(stream, name) as (container, video):
                reformatter = VideoReformatter()
                pairs = pairwise(_small_grey(frame, reformatter) for frame in container.decode(video))
                moves = [_FrameMotion.of(shift_lengths(*pair)) for pair in pairs]
    area = sum(each.area for each in moves) or 1.0
    mean = sum(each.length for each in moves) / area
    variance = max(0.0, sum(each.square for each in moves) / area - mean**2)
    return MotionFeatures(rate, frames, key_frames, mean, variance, kind)


@dataclass(frozen=True)
class _FrameMotion:
    """The motion of one frame."""

    area: float
    """Of all blocks."""
    length: float
    """The sum of the vectors' lengths, each times its block's area."""
    square: float
    """The same of their squares."""

    @classmethod
    def of(cls, lengths: np.ndarray, areas: float | np.ndarray = 1.0) -> _FrameMotion:
        """From the vectors' lengths, as shares of the frame's diagonal, and their blocks' areas."""
        areas = np.broadcast_to(areas, lengths.shape)
        return cls(float(areas.sum()), float((areas * lengths).sum()), float((areas * lengths**2).sum()))


def _codec_motion(vectors: np.ndarray, width: int, height: int) -> _FrameMotion:
    """The motion that the codec's vectors tell."""
    scale = np.maximum(vectors["motion_scale"], 1) * np.hypot(width, height)
    lengths = np.hypot(vectors["motion_x"], vectors["motion_y"]) / scale
    return _FrameMotion.of(lengths, vectors["w"].astype(float) * vectors["h"])


def shift_lengths(before: UInt8[np.ndarray, "H W"], after: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
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
    return length / np.hypot(*after.shape)


def _small_grey(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    height = max(_BLOCK, round(_WIDTH * frame.height / frame.width))
    return reformatter.reformat(frame, width=_WIDTH, height=height, format="gray", threads=1).to_ndarray()
