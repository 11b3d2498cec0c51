"""Sampling near a time: key frames where they are dense enough, at the same moments as exact sampling."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.preprocess import video
from perception_encoder.preprocess.source import Source
from perception_encoder.preprocess.video import sample_frames
from tests.clips import HEIGHT, WIDTH, clip, number_of, trimmed, with_display_matrix

RANDOM_TIMES = (0, 3, 4, 21, 22, 23, 60, 61, 80, 120, 125, 126, 170, 171, 200, 230, 260, 261, 262, 300)
CLIPS: dict[str, Callable[[], bytes]] = {
    "a key frame each half second": lambda: clip(200, group=12),
    "not at whole seconds": lambda: clip(200, group=19),
    "few key frames": lambda: clip(200, group=80),
    "one key frame": lambda: clip(150, group=1000),
    "a variable rate": lambda: clip(20, group=3, ticks=RANDOM_TIMES, rate=100),
    "cut by an edit list": lambda: trimmed(clip(group=10), 17, 60),
    "MPEG-4, cut by an edit list": lambda: trimmed(clip(codec="mpeg4", group=10), 17, 60),
    "open groups": lambda: clip(200, group=20, **{"x264-params": "open-gop=1:bframes=3"}),
    "HEVC, open groups": lambda: clip(200, "mp4", "libx265", group=20),
    "no key frames": lambda: clip(100, group=20, **{"x264-params": "intra-refresh=1"}),
    "a wrong duration": lambda: _with_duration(clip(200, group=20), 3600),
    "frames of two fields": lambda: clip(200, group=20, **{"x264-params": "tff=1"}),
    "fragments": lambda: clip(200, group=20, movflags="frag_keyframe+empty_moov"),
    "Matroska": lambda: clip(200, "matroska", group=20),
    "VP9": lambda: clip(100, "webm", "libvpx-vp9", group=20),
    "MPEG-TS": lambda: clip(100, "mpegts", group=20),
    "no index": lambda: clip(100, "avi", "mpeg4", group=20),
}
SIDE = HEIGHT // 2


def _with_duration(mp4: bytes, seconds: int) -> bytes:
    """The same mp4, whose header claims another duration."""
    start = mp4.index(b"mvhd") + 20
    return mp4[:start] + (1000 * seconds).to_bytes(4, "big") + mp4[start + 4 :]


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three idle cores, whatever the machine has; all are given back."""
    cores = threading.Semaphore(3)
    monkeypatch.setattr(video, "IDLE_CORES", cores)
    before = threading.active_count()
    yield
    assert all(cores.acquire(blocking=False) for _ in range(3)) and threading.active_count() == before


def whole_number(image: Image.Image) -> int:
    """The number that a reduced frame carries."""
    assert min(image.size) == SIDE
    return number_of(image.resize((WIDTH, HEIGHT)))


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
    reduced = list(sample_frames(data, every=every, near=True, side=SIDE))
    assert [(frame.time, frame.end, frame.size) for frame in reduced] == [(f.time, f.end, f.size) for f in frames]
    assert [whole_number(frame.image) for frame in reduced] == [number_at[frame.time] for frame in frames]


def test_only_key_frames_are_decoded_where_they_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_decode", lambda *arguments: pytest.fail("another frame is decoded"))
    assert len(list(sample_frames(clip(200, group=20), every=1.0, near=True))) == 10


def test_idle_cores_decode_parts_of_one_video(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All four wait for each other, so that each part has a thread of its own."""
    meeting, threads, seek = threading.Barrier(4, timeout=60), set(), video._by_seeking

    def met(*arguments: Any) -> Iterator[Any]:
        if len(threads) < 4 and threading.current_thread() not in threads:
            threads.add(threading.current_thread())
            meeting.wait()
        yield from seek(*arguments)

    monkeypatch.setattr(video, "_by_seeking", met)
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(250, group=5))
    numbers = [whole_number(frame.image) for frame in sample_frames(path, every=0.2, near=True, side=SIDE)]
    assert numbers == list(range(0, 250, 5)) and len(threads) == 4
    for _ in range(20):
        next(sample_frames(path, every=0.2, near=True, side=SIDE))  # abandoned: the fixture sees that its threads end


@pytest.mark.parametrize(("group", "limit"), [(100, None), (20, 24 * WIDTH * HEIGHT)])
def test_one_core_decodes_what_takes_much_memory(
    group: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames of long parts, which are in memory together, or those that decoders hold."""
    if limit is not None:
        monkeypatch.setattr(video.DECODING, "limit", limit)
    threads, numbers = threading.active_count(), []
    for frame in sample_frames(clip(250, group=group), every=0, near=True, side=SIDE):
        numbers.append(whole_number(frame.image))
        assert threading.active_count() == threads
    assert numbers == list(range(250))


def test_rotated_frames_stand_upright() -> None:
    data = with_display_matrix(clip(200, group=20), 0, 1, -1, 0)
    frames = list(sample_frames(data, every=0.4, near=True, side=SIDE))
    assert {(frame.size, frame.image.size) for frame in frames} == {((HEIGHT, WIDTH), (SIDE, 2 * SIDE))}


DAMAGED: dict[str, Callable[[], bytes]] = {
    "index first": lambda: clip(200, group=20, movflags="faststart"),
    "few key frames": lambda: clip(200, group=80, movflags="faststart"),
    "index last": lambda: clip(200, group=20),
    "Matroska": lambda: clip(200, "matroska", group=20),
    "MPEG-TS": lambda: clip(100, "mpegts", group=20),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_videos_give_the_same_errors_and_moments(kind: str) -> None:
    data = DAMAGED[kind]()
    generator = np.random.default_rng(0)
    found = set()
    for share in (0.001, 0.02, 0.1, 0.3, 0.6, 0.95):
        at = int(share * len(data))
        noise = generator.bytes(len(data) // 10)
        for damaged in (data[:at], data[:at] + noise + data[at + len(noise) :], data[:at] + bytes(len(data) - at)):
            exact, near = _sampled(damaged, near=False), _sampled(damaged, near=True)
            found.add(type(exact))
            if isinstance(exact, str):
                assert near == exact
            else:
                assert all(min(abs(time - other) for other in near) <= 0.5 for time in exact)
    assert found == {str, list}


def _sampled(source: Source, near: bool) -> list[float] | str:
    try:
        return [frame.time for frame in sample_frames(source, "x", near=near, side=SIDE)]
    except InputError as error:
        return str(error)


def test_hardware_that_does_not_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.preprocess.video_file.hwdevices_available", lambda: ["cuda"])
    for value, reason in [("warp", "is 'warp'; this FFmpeg has cuda"), ("cuda:none", "is 'cuda:none', which does not")]:
        monkeypatch.setenv("PE_HWACCEL", value)
        with pytest.raises(ConfigError, match=reason):
            next(sample_frames(clip(), near=True))
        assert number_of(next(sample_frames(clip())).image) == 0  # exact frames are decoded on the CPU
    with pytest.raises(InputError, match="x: is not a video"):  # which is not the hardware's fault
        next(sample_frames(b"noise" * 100, "x", near=True))


def test_hardware_that_does_not_know_the_codec_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("perception_encoder.preprocess.video_file.hwdevices_available", lambda: ["videotoolbox"])
    monkeypatch.setenv("PE_HWACCEL", "videotoolbox")
    data = clip(60, "webm", "libvpx", group=25)
    assert [number_of(frame.image) for frame in sample_frames(data, "x", near=True)] == [0, 25, 50]
    assert caplog.messages == ["x: videotoolbox does not decode vp8 here, so the CPU does"]
