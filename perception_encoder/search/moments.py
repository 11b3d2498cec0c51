"""A video as moments: stretches of time that show one thing, found by shot changes, length and likeness.

Frames are sampled at a steady rate. A moment ends where the picture changes at a stroke (colours all over it are others
than a frame before) or where it gets too long; neighbours whose vectors are alike become one again, so that a long take
of one thing is one moment, and a moment's vector is the mean of its frames', as a video's is (section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

_BINS = 4  # of each colour channel
_CELLS = 4  # of each side of the picture: colours are counted in each cell
_SIDE = 32  # pixels that the histogram looks at


@dataclass(frozen=True, kw_only=True)
class MomentConfig:
    """How videos are cut."""

    every: float = 1.0
    """Seconds between the frames that are looked at."""
    longest: float = 10.0
    """Seconds after which a moment ends, unless its neighbour is alike."""
    shot_change: float = 0.6
    """Share of the picture whose colours must have changed for a cut, in 0–1."""
    alike: float = 0.9
    """Cosine similarity from which neighbours are one moment."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video."""

    start: float
    """Seconds from the video's first frame."""
    end: float
    best: int
    """Number of the sampled frame that is most like the whole moment."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""


@dataclass(frozen=True, kw_only=True)
class FrameSeen:
    """What the cutter knows of a sampled frame."""

    time: float
    end: float
    colours: Float[np.ndarray, " C"]
    """See `colour_histogram`."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""


def colour_histogram(image: Image.Image) -> Float[np.ndarray, " C"]:
    """Colours of a picture by cell, each cell's shares summing to 1 / cells."""
    pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX))  # (32, 32, 3)
    colour = (pixels // (256 // _BINS)) @ np.array([_BINS * _BINS, _BINS, 1])  # (32, 32)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    index = (cell[:, None] * _CELLS + cell[None]) * _BINS**3 + colour
    return np.bincount(index.ravel(), minlength=_CELLS**2 * _BINS**3).astype(np.float32) / _SIDE**2


def cut_moments(frames: Sequence[FrameSeen], config: MomentConfig) -> list[Moment]:
    """The moments of a video's sampled frames, in order; together they cover it."""
    groups: list[list[int]] = []
    for number, frame in enumerate(frames):
        before = frames[number - 1]
        if groups and frame.end - frames[groups[-1][0]].time <= config.longest and not _cut(before, frame, config):
            groups[-1].append(number)
        else:
            groups.append([number])
    merged: list[list[int]] = []
    for group in groups:
        if merged and _mean(frames, merged[-1]) @ _mean(frames, group) >= config.alike:
            merged[-1] += group
        else:
            merged.append(group)
    return [_moment(frames, group) for group in merged]


def _cut(before: FrameSeen, after: FrameSeen, config: MomentConfig) -> bool:
    return float(np.abs(before.colours - after.colours).sum() / 2) > config.shot_change


def _mean(frames: Sequence[FrameSeen], group: Sequence[int]) -> np.ndarray:
    mean = np.mean([frames[number].vector for number in group], axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _moment(frames: Sequence[FrameSeen], group: Sequence[int]) -> Moment:
    vector = _mean(frames, group)
    best = max(group, key=lambda number: float(frames[number].vector @ vector))
    return Moment(start=frames[group[0]].time, end=frames[group[-1]].end, best=best, vector=vector)
