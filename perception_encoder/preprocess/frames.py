"""Choose frames of a video: n uniform ones, ⌊i·(T−1)/(n−1)⌋ (section 2.2); measure changes of shots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

FrameChoice = Callable[[int, float, int], list[int]]
"""Chooses frames of a part by their number, the video's frame rate and the count, as `plm_frame_indices` does."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, upright, in time order."""

    images: list[Image.Image]
    times: list[float]
    """Seconds since the video's first frame."""
    duration: float
    """Seconds from the first frame to the end of the last one."""
    frame_count: int
    """Number of frames of the whole video, T."""
    complete: bool
    """False if the file ends early or is damaged and only some frames could be decoded."""


def frame_indices(total: int, count: int) -> list[int]:
    """Return `count` uniform indices into `total` frames: ⌊i·(total−1)/(count−1)⌋, or the first one.

    The only frame-sampling formula, for training, `Encoder.encode` and evaluation: that of the reference's evaluation.
    Raises ConfigError if either is less than 1.
    """
    _check(total, count, "frames")
    return [i * (total - 1) // max(1, count - 1) for i in range(count)]


def plm_frame_indices(
    total: int, fps: float, count: int, start: float | None = None, end: float | None = None
) -> list[int]:
    """Return the `count` uniform indices that the published PLM reads; a video of fewer frames gives all.

    They are chosen from the frames at whole seconds if there are at least `count` of those, else from all frames.
    Raises ConfigError for a number out of range and for a part without frames.

    `total`, `fps`: frames of the video, in all and per second. `start`, `end`: seconds that limit the part to read.
    """
    _check(total, count, "frames")
    if not fps > 0:
        raise ConfigError(f"fps is {fps}; it must be above 0")
    first = 0 if start is None else int(start * fps)
    last = total - 1 if end is None else min(int(end * fps), total - 1)
    if not 0 <= first <= last:
        raise ConfigError(f"no frame lies between {start} and {end} s; the video has {total / fps:.1f} s")
    seconds = range(first, last + 1, max(1, round(fps)))
    chosen = seconds if len(seconds) >= count else range(first, last + 1)
    count = min(count, len(chosen))
    return [chosen[round(i * (len(chosen) - 1) / max(1, count - 1))] for i in range(count)]


def spread_indices(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices into `total` items, halves rounded up; for parts of datasets, not frames.

    Raises ConfigError if either is less than 1.
    """
    _check(total, count, "items")
    steps = max(1, count - 1)
    return [(2 * i * (total - 1) + steps) // (2 * steps) for i in range(count)]


def _check(total: int, count: int, what: str) -> None:
    if total < 1 or count < 1:
        raise ConfigError(f"{count} of {total} {what}: both must be at least 1")


SHOT_CHANGE = 0.6
"""Minimum share of the image with changed colours at a cut, in 0–1."""
_BINS = 4  # of each colour channel
_CELLS = 4  # of each side of the image: colours are counted in each cell
_SIDE = 32  # pixels of the histogram's image


def colour_histogram(image: Image.Image) -> Float[np.ndarray, " C"]:
    """Count an image's colours in each cell; a cell's shares sum to 1 / number of cells."""
    pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX))  # (32, 32, 3)
    colour = (pixels // (256 // _BINS)) @ np.array([_BINS * _BINS, _BINS, 1])  # (32, 32)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    index = (cell[:, None] * _CELLS + cell[None]) * _BINS**3 + colour
    return np.bincount(index.ravel(), minlength=_CELLS**2 * _BINS**3).astype(np.float32) / _SIDE**2


def colour_change(before: Float[np.ndarray, " C"], after: Float[np.ndarray, " C"]) -> float:
    """Return the share of the image whose colours differ between two histograms, in 0–1."""
    return float(np.abs(before - after).sum() / 2)


def is_cut(before: Float[np.ndarray, " C"], after: Float[np.ndarray, " C"]) -> bool:
    """Return whether two sampled frames, by their histograms, are of different shots."""
    return colour_change(before, after) > SHOT_CHANGE
