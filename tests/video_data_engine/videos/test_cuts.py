"""Shot changes to the frame, and clips that cover a video."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.preprocess.frames import colour_change, colour_histogram
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.video_data_engine.config import CutConfig
from perception_encoder.video_data_engine.videos.probe import find_shot_changes, split_clips

CONFIG = CutConfig(longest=10.0, shortest=2.0)


def shots(*lengths: int, speed: float = 0.25) -> bytes:
    """A video of shots of so many frames, 25 a second, of noise that moves `speed` pixels a frame."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "clip.mp4")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 50
            for seed, length in enumerate(lengths):
                tiles = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
                view = tiles.repeat(8, 0).repeat(8, 1)
                for number in range(length):
                    frame = av.VideoFrame.from_ndarray(np.roll(view, int(number * speed), 1), format="rgb24")
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def test_shot_changes_are_found_to_the_frame() -> None:
    video = shots(33, 60, 41)
    assert find_shot_changes(video, "clip.mp4", CONFIG) == pytest.approx([33 / 25, 93 / 25], abs=0.02)
    assert find_shot_changes(shots(60), "clip.mp4", CONFIG) == []


def test_a_fast_movement_is_no_cut() -> None:
    """In a quarter of a second its colours change as they do in a cut, but not from one frame to the next."""
    still, fast = ([frame.image for frame in sample_frames(shots(40, speed=v), "a", 0.25)] for v in (0, 2.0))
    changes = [
        [colour_change(colour_histogram(one), colour_histogram(two)) for one, two in itertools.pairwise(images)]
        for images in (still, fast)
    ]
    assert max(changes[0]) < 0.1 < CONFIG.shot_change < min(changes[1])
    assert find_shot_changes(shots(40, speed=2.0), "clip.mp4", CONFIG) == []
    assert find_shot_changes(shots(40, 30, speed=2.0), "clip.mp4", CONFIG) == pytest.approx([40 / 25], abs=0.02)


@pytest.mark.parametrize(
    ("duration", "changes", "clips"),
    [
        (9.0, [4.0], [(0.0, 9.0)]),
        (12.0, [4.0], [(0.0, 4.0), (4.0, 12.0)]),
        (12.0, [1.0, 11.5], [(0.0, 6.0), (6.0, 12.0)]),
        (25.0, [5.0], [(0.0, 5.0), (5.0, 15.0), (15.0, 25.0)]),
    ],
)
def test_clips(duration: float, changes: list[float], clips: list[tuple[float, float]]) -> None:
    assert split_clips(duration, changes, CONFIG) == clips


@given(st.floats(10.01, 200), st.lists(st.floats(0.01, 0.99), max_size=20))
def test_clips_cover_the_video_and_keep_their_lengths(duration: float, shares: list[float]) -> None:
    clips = split_clips(duration, sorted(share * duration for share in shares), CONFIG)
    assert clips[0][0] == 0 and clips[-1][1] == pytest.approx(duration, abs=1e-5)
    assert all(first[1] == second[0] for first, second in itertools.pairwise(clips))
    assert all(CONFIG.shortest - 1e-5 <= end - start <= CONFIG.longest + 1e-5 for start, end in clips)
