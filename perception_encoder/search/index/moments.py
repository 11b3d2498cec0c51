"""A video as moments: stretches of time that show one thing, found by shot changes, length and likeness.

Frames are sampled at a steady rate and make windows: a window ends where the picture changes at a stroke (colours all
over it are others than a frame before) or where it gets too long. Neighbouring windows that are alike are one moment,
so that a long take of one thing is one. A moment's vector is the mean of its frames' unit vectors, made unit again, so
that each frame counts alike, as in the likeness by which moments are cut. (A whole video's, by `Encoder.encode`, is the
mean of its frames' vectors as long as the model makes them.)
Of a closed window only its sum and its most typical frame are kept, so that a long video needs little memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    """Seconds after which a window ends."""
    shot_change: float = 0.6
    """Share of the picture whose colours must have changed for a cut, in 0–1."""
    alike: float = 0.9
    """Cosine similarity from which neighbouring windows are one moment."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the cutter is given of a sampled frame."""

    time: float
    end: float
    """When the next frame is due."""
    colours: Float[np.ndarray, " C"]
    """See `colour_histogram`."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""
    thumbnail: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video."""

    start: float
    """Seconds from the video's first frame."""
    end: float
    best: Frame
    """The sampled frame, of each window the most typical one, that is most like the whole moment."""
    total: Float[np.ndarray, " D"]
    """Sum of its frames' vectors."""

    @property
    def vector(self) -> Float[np.ndarray, " D"]:
        """Mean of its frames' vectors, made unit length."""
        return self.total / max(float(np.linalg.norm(self.total)), 1e-12)


def colour_histogram(image: Image.Image) -> Float[np.ndarray, " C"]:
    """Colours of a picture by cell, each cell's shares summing to 1 / cells."""
    pixels = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX))  # (32, 32, 3)
    colour = (pixels // (256 // _BINS)) @ np.array([_BINS * _BINS, _BINS, 1])  # (32, 32)
    cell = np.arange(_SIDE) * _CELLS // _SIDE
    index = (cell[:, None] * _CELLS + cell[None]) * _BINS**3 + colour
    return np.bincount(index.ravel(), minlength=_CELLS**2 * _BINS**3).astype(np.float32) / _SIDE**2


class MomentCutter:
    """Takes a video's sampled frames in order, and gives its moments, which together cover it."""

    def __init__(self, config: MomentConfig) -> None:
        self._config = config
        self._window: list[Frame] = []
        self._moments: list[Moment] = []

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        if self._window and (self._is_cut(frame) or frame.end - self._window[0].time > self._config.longest):
            self._close()
        self._window.append(frame)

    def finish(self) -> list[Moment]:
        """The moments of all frames."""
        self._close()
        return self._moments

    def _is_cut(self, frame: Frame) -> bool:
        changed = np.abs(self._window[-1].colours - frame.colours).sum() / 2
        return float(changed) > self._config.shot_change

    def _close(self) -> None:
        """Make the window a moment, or a part of the last one where they are alike."""
        if not self._window:
            return
        first, last = self._window[0], self._window[-1]
        total = np.sum([frame.vector for frame in self._window], axis=0)
        best = max(self._window, key=lambda frame: float(frame.vector @ total))
        moment = Moment(start=first.time, end=last.end, best=best, total=total)
        self._window = []
        before = self._moments[-1] if self._moments else None
        if before is not None and float(before.vector @ moment.vector) >= self._config.alike:
            total = before.total + moment.total
            best = max(before.best, best, key=lambda frame: float(frame.vector @ total))
            self._moments[-1] = replace(before, end=moment.end, best=best, total=total)
        else:
            self._moments.append(moment)
