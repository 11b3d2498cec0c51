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
from perception_encoder.records import Positive
from perception_encoder.vectors import unit_rows


@dataclass(frozen=True, kw_only=True)
class MomentConfig:
    """How videos are split."""

    every: Positive = 1.0
    """Seconds between sampled frames."""
    max_seconds: Positive = 10.0
    """Maximum length of a window."""
    shot_change: Positive = SHOT_CHANGE
    """Minimum share of the image with changed colours at a cut, in 0–1."""
    similarity: Positive = 0.9
    """Minimum cosine similarity of neighbouring windows that are merged into one moment."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sampled frame with what the cutter needs."""

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
    """A stretch of a video."""

    start: float
    """Seconds from the video's first frame."""
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

    def __init__(self, config: MomentConfig) -> None:
        self._config = config
        self._window: list[Frame] = []
        self._moments: list[Moment] = []

    def add(self, frame: Frame) -> None:
        """Add the next frame."""
        if self._window:
            change = colour_change(self._window[-1].colours, frame.colours)
            if change > self._config.shot_change or frame.end - self._window[0].time > self._config.max_seconds:
                self._close()
        self._window.append(frame)

    def finish(self) -> list[Moment]:
        """Return the moments of all frames."""
        self._close()
        return self._moments

    def _close(self) -> None:
        """End the window: make it a moment, or add it to the last moment if they are similar."""
        if not self._window:
            return
        first, last = self._window[0], self._window[-1]
        total = np.sum([frame.vector for frame in self._window], axis=0)
        best = max(self._window, key=lambda frame: float(frame.vector @ total))
        moment = Moment(start=first.time, end=last.end, best=best, total=total)
        self._window = []
        before = self._moments[-1] if self._moments else None
        if before is not None and float(before.vector @ moment.vector) >= self._config.similarity:
            total = before.total + moment.total
            best = max(before.best, best, key=lambda frame: float(frame.vector @ total))
            self._moments[-1] = replace(before, end=moment.end, best=best, total=total)
        else:
            self._moments.append(moment)
