"""Sampling near a time: key frames where they are dense enough, at the same moments as exact sampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from perception_encoder.preprocess import video
from perception_encoder.preprocess.video import sample_frames
from tests.clips import clip, number_of, trimmed

RANDOM_TIMES = [0, 3, 4, 21, 22, 23, 60, 61, 80, 120, 125, 126, 170, 171, 200, 230, 260, 261, 262, 300]
CLIPS: dict[str, Callable[[], bytes]] = {
    "a key frame each half second": lambda: clip(200, group=12),
    "not at whole seconds": lambda: clip(200, group=19),
    "few key frames": lambda: clip(200, group=80),
    "one key frame": lambda: clip(150, group=1000),
    "a variable rate": lambda: clip(20, group=3, ticks=RANDOM_TIMES, rate=100),
    "cut by an edit list": lambda: trimmed(clip(group=10), 17, 60),
    "open groups": lambda: clip(200, "mp4", "libx265", group=20),
    "Matroska": lambda: clip(200, "matroska", group=20),
    "VP9": lambda: clip(100, "webm", "libvpx-vp9", group=20),
    "no index": lambda: clip(100, "avi", "mpeg4", group=20),
}


@pytest.mark.parametrize("every", [1.0, 0.4])
@pytest.mark.parametrize("name", CLIPS)
def test_frames_are_near_those_of_exact_sampling(name: str, every: float) -> None:
    data = CLIPS[name]()
    number_at = {frame.time: number_of(frame.image) for frame in sample_frames(data, every=0)}
    exact = [frame.time for frame in sample_frames(data, every=every)]
    frames = list(sample_frames(data, every=every, near=True))
    assert [number_of(frame.image) for frame in frames] == [number_at[frame.time] for frame in frames]
    times = [frame.time for frame in frames]
    assert times == sorted(set(times)) and times[0] == 0
    assert all(min(abs(time - other) for other in times) <= every / 2 for time in exact)
    assert {math.floor(time / every + 1e-3) for time in exact} <= {math.floor(time / every + 1e-3) for time in times}
    assert [frame.end for frame in frames[:-1]] == times[1:]


def test_only_key_frames_are_decoded_where_they_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_decode", lambda *arguments: pytest.fail("another frame is decoded"))
    assert len(list(sample_frames(clip(200, group=20), every=1.0, near=True))) == 10
