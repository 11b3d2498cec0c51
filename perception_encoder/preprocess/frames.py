"""Frames of a video in memory, and which ones to take of how many: n uniform ones, ⌊i·(T−1)/(n−1)⌋ (section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from perception_encoder.errors import ConfigError


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, upright, in time order."""

    images: list[Image.Image]
    times: list[float]
    """Seconds from the video's first frame."""
    duration: float
    """Seconds from the first frame to the end of the last one."""
    frame_count: int
    """Frames that the whole video holds, T."""
    complete: bool
    """False if the file ends early or is damaged: the frames are then of what could be decoded."""


def frame_indices(total: int, count: int) -> list[int]:
    """`count` uniform indices into `total` frames, i·(total−1)/(count−1) rounded down; the first for one.

    The one formula for the frames of a video, in training, `Encoder.encode` and evaluation: that of the reference's
    evaluation. Raises ConfigError if either is less than 1.
    """
    _check(total, count, "frames")
    return [i * (total - 1) // max(1, count - 1) for i in range(count)]


def spread_indices(total: int, count: int) -> list[int]:
    """`count` indices evenly apart into `total` items, halves rounded up: for a part of a dataset, not for frames.

    Raises ConfigError if either is less than 1.
    """
    _check(total, count, "items")
    steps = max(1, count - 1)
    return [(2 * i * (total - 1) + steps) // (2 * steps) for i in range(count)]


def _check(total: int, count: int, what: str) -> None:
    if total < 1 or count < 1:
        raise ConfigError(f"{count} of {total} {what}: both must be at least 1")
