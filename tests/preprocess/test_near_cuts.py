"""Cuts between scenes stay where exact sampling finds them, wherever the key frames are."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from PIL import Image

from perception_encoder.preprocess.frames import SHOT_CHANGE, colour_change, colour_histogram
from perception_encoder.preprocess.video import SampledFrame, sample_frames

WIDTH, HEIGHT = 128, 64
RATE = 25


def scene(number: int) -> np.ndarray:
    """A scene's texture in colours that no neighbouring scene has."""
    generator = np.random.default_rng(number)
    colour = np.array([(230, 20, 20), (20, 220, 30), (20, 40, 230), (240, 240, 30), (20, 10, 15)][number % 5])
    texture = generator.integers(-20, 21, (HEIGHT // 8, WIDTH // 8, 1)).repeat(8, 0).repeat(8, 1)
    return np.clip(colour + texture, 0, 255).astype(np.uint8)


@lru_cache
def film(cuts: tuple[int, ...], keys: tuple[int, ...], count: int = 300, rate: Fraction = Fraction(RATE)) -> bytes:
    """A video whose scenes begin at the frames `cuts`, with key frames at `keys` and nowhere else."""
    with av.open(stream := io.BytesIO(), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate, options={"x264-params": "scenecut=0:keyint=infinite"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(count):
            shade = np.uint8(number % 3)  # nothing is quite still
            pixels = scene(sum(cut <= number for cut in cuts)) // 4 * 4 + shade
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pict_type = PictureType.I if number in keys else PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return stream.getvalue()


def cuts_of(frames: list[SampledFrame]) -> list[float]:
    colours = [colour_histogram(frame.image) for frame in frames]
    changed = [colour_change(*pair) > SHOT_CHANGE for pair in pairwise(colours)]
    return [frame.time for frame, new in zip(frames[1:], changed, strict=True) if new]


CUTS = {
    "a frame before the grid": tuple(RATE * second - 1 for second in range(2, 12, 2)),
    "a frame after the grid": tuple(RATE * second + 1 for second in range(2, 12, 2)),
    "on the grid": tuple(RATE * second for second in range(2, 12, 2)),
    "anywhere": (13, 60, 88, 115, 140, 177, 209, 246, 260, 291),
    "short scenes": (30, 44, 52, 70, 81, 120, 133, 160, 168, 201, 226, 240, 252),
}
KEYS = {
    "at cuts only": None,
    "after the grid": tuple(range(0, 300, RATE))[:1] + tuple(range(8, 300, RATE)),
    "before the grid": (0, *range(17, 300, RATE)),
    "just after the grid": (0, *range(2, 300, RATE)),
    "just before the grid": (0, *range(23, 300, RATE)),
    "halfway": (0, *range(12, 300, RATE)),
    "dense": tuple(range(0, 300, 5)),
    "rare": (0, 130, 240),
}


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("cuts", CUTS)
def test_cuts_stay_in_their_place(cuts: str, keys: str, rate: Fraction) -> None:
    at = CUTS[cuts]
    for where in (KEYS[keys] or (0, *at), tuple(sorted({*(KEYS[keys] or (0,)), *at}))):
        data = film(at, where, rate=rate)
        exact, near = list(sample_frames(data)), list(sample_frames(data, near=True))
        assert len(cuts_of(exact)) >= 5
        assert cuts_of(near) == cuts_of(exact)
        times = [frame.time for frame in near]
        assert times == sorted(set(times))
        assert all(min(abs(time - frame.time) for time in times) <= 0.5 for frame in exact)
        reduced = list(sample_frames(data, near=True, side=32))
        assert [(frame.time, frame.end) for frame in reduced] == [(frame.time, frame.end) for frame in near]


def test_a_stream_that_cannot_be_opened_twice_is_sampled_exactly() -> None:
    data = film(CUTS["anywhere"], (0, *range(8, 300, RATE)))
    exact, near = (list(sample_frames(io.BytesIO(data), near=near)) for near in (False, True))
    assert [frame.time for frame in near] == [frame.time for frame in exact]


def test_key_frames_stand_for_others_within_a_scene() -> None:
    keys = (0, *range(8, 300, RATE))
    times = [round(frame.time * RATE) for frame in sample_frames(film((150,), keys), near=True)]
    assert set(times) - set(keys) <= {150, 175} and len(set(times) & set(keys)) >= 10


def test_images_are_those_at_their_times() -> None:
    data = film(CUTS["short scenes"], (0, *range(17, 300, RATE)))
    every = {frame.time: np.asarray(frame.image, int) for frame in sample_frames(data, every=0)}
    for frame in sample_frames(data, near=True):
        assert isinstance(frame.image, Image.Image)
        assert np.abs(np.asarray(frame.image, int) - every[frame.time]).mean() < 1
