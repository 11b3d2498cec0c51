"""Cut a long video into clips at its shot changes, to the frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from perception_encoder.preprocess.shot_changes import colour_change, colour_histogram
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.video_data_engine.config import CutConfig

_SIDE = 64
"""Short side of the frames that are compared."""
_REFINED = 16
"""Frames between two sampled ones in which the change itself is looked for."""


def find_shot_changes(source: Path | bytes, name: str, config: CutConfig) -> list[float]:
    """Return the seconds at which a new shot begins, the video's own beginning not included.

    Frames are compared at a steady rate; between two that differ, the first frame of a new shot is looked for. Without
    one, something has moved.
    """
    changes: list[float] = []
    before = None
    last = 0.0
    for frame in sample_frames(source, name, config.every, side=_SIDE):
        colours = colour_histogram(frame.image)
        if before is not None and colour_change(before, colours) > config.shot_change:
            change = _refine(source, name, last, frame.time, config.shot_change)
            changes += [] if change is None else [change]
        before, last = colours, frame.time
    return changes


def _refine(source: Path | bytes, name: str, start: float, end: float, least: float) -> float | None:
    """The time of the frame, after `start` and up to `end`, that differs most from the one before it.

    None if it differs by less than `least`.
    """
    frames = read_frames(source, name, _REFINED, start, math.nextafter(end + 1e-3, math.inf), side=_SIDE)
    colours = [colour_histogram(image) for image in frames.images]
    changes = [colour_change(first, second) for first, second in itertools.pairwise(colours)]
    if not changes:
        return end
    return frames.times[1 + changes.index(max(changes))] if max(changes) > least else None


def split_clips(duration: float, changes: Sequence[float], config: CutConfig) -> list[tuple[float, float]]:
    """Return the clips (start, end) of a video: they cover it, and each has from `shortest` to `longest` seconds.

    A shot that is too short joins the one before it, the first the one after it; what is too long is cut evenly. A
    video of at most `longest` seconds is one clip.
    """
    if duration <= config.longest:
        return [(0.0, duration)]
    edges = [0.0]
    for change in changes:
        if change - edges[-1] >= config.shortest and duration - change >= config.shortest:
            edges.append(change)
    edges.append(duration)
    clips: list[tuple[float, float]] = []
    for start, end in itertools.pairwise(edges):
        parts = math.ceil((end - start) / config.longest - 1e-9)
        cuts = [start + (end - start) * part / parts for part in range(parts + 1)]
        clips += itertools.pairwise(cuts)
    return [(round(start, 6), round(end, 6)) for start, end in clips]
