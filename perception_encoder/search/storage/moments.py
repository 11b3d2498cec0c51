"""Split a video into moments by shot changes, length and similarity.

Sampled frames are grouped into windows, which end at a shot change (the colours of the whole image differ from those of
the previous frame) or when they get too long. Similar neighbouring windows are merged, so that a long take is one
moment. A closed window is stored as a sum and its most typical frame, so that a long video needs little memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from perception_encoder.preprocess.frames import SHOT_CHANGE, colour_change
from perception_encoder.vectors import unit_rows

_MAX_SECONDS = 10.0  # of a window
_SIMILARITY = 0.9  # least cosine of neighbouring windows that are merged


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sampled frame."""

    time: float
    end: float
    """Time of the next sampled frame."""
    colours: Float[np.ndarray, " C"]
    """See `colour_histogram`."""
    vector: Float[np.ndarray, " D"]
    """Unit length."""
    thumbnail: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video, in seconds from its first frame."""

    start: float
    end: float
    best: Frame
    """The frame most similar to the moment, among the most typical frames of its windows."""
    total: Float[np.ndarray, " D"]
    """Sum of the frames' vectors."""

    @property
    def vector(self) -> Float[np.ndarray, " D"]:
        """Mean of the frames' vectors, normalised."""
        return unit_rows(self.total)


class MomentCutter:
    """Collects a video's sampled frames in order and returns the moments that cover it."""

    def __init__(self) -> None:
        self._window: list[Frame] = []
        self._moments: list[Moment] = []

    def add(self, frame: Frame) -> None:
        """Add the next frame."""
        if self._window:
            change = colour_change(self._window[-1].colours, frame.colours)
            if change > SHOT_CHANGE or frame.end - self._window[0].time > _MAX_SECONDS:
                self._close()
        self._window.append(frame)

    def finish(self) -> list[Moment]:
        """Return the moments of all frames."""
        if self._window:
            self._close()
        return self._moments

    def _close(self) -> None:
        """End the window: make it a moment, or add it to the last moment if they are similar."""
        first, last = self._window[0], self._window[-1]
        total = np.sum([frame.vector for frame in self._window], axis=0)
        best = max(self._window, key=lambda frame: float(frame.vector @ total))
        moment = Moment(start=first.time, end=last.end, best=best, total=total)
        self._window = []
        before = self._moments[-1] if self._moments else None
        if before is not None and float(before.vector @ moment.vector) >= _SIMILARITY:
            total = before.total + moment.total
            best = max(before.best, best, key=lambda frame: float(frame.vector @ total))
            self._moments[-1] = replace(before, end=moment.end, best=best, total=total)
        else:
            self._moments.append(moment)
