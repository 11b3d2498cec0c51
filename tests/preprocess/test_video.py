"""Frames of a video: the right ones, upright, with their times, out of every kind of container, damaged ones too."""

from __future__ import annotations

import gc
import io
import logging
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, MediaDecodeError, MediaTooLargeError
from perception_encoder.preprocess import video
from perception_encoder.preprocess.frames import VideoFrames, frame_indices, plm_frame_indices
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.preprocess.video_file import FrameImages, write_video
from tests.clips import clip, number_of, numbered, trimmed, with_display_matrix

CONTAINERS = [
    ("mp4", "libx264"),
    ("mp4", "libx265"),
    ("mov", "mjpeg"),
    ("matroska", "libx264"),
    ("webm", "libvpx-vp9"),
    ("webm", "libvpx"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("mpegts", "libx264"),
    ("mpeg", "mpeg2video"),
    ("flv", "libx264"),
    ("asf", "mpeg4"),
    ("h264", "libx264"),
    ("gif", "gif"),
]
DEFAULT_DURATION = b"\x23\xe3\x83\x84"
"""How Matroska's element of that name begins, before its four bytes."""


def numbers(frames: VideoFrames) -> list[int]:
    return [number_of(image) for image in frames.images]


@pytest.mark.parametrize(("format", "codec"), CONTAINERS)
def test_frames_of_every_container(format: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    data = clip(format=format, codec=codec)
    for count in (8, 31):
        frames = read_frames(data, frames=count)
        expected = frame_indices(60, count)
        assert numbers(frames) == expected
        assert np.allclose(frames.times, [index / 25 for index in expected], atol=0.011)
        assert frames.frame_count == 60 and frames.complete and not caplog.records
        assert abs(frames.duration - 2.4) < 0.05
    for every in (0.04, 0.5, 9.0):
        found = list(sample_frames(data, every=every))
        sampled = [number_of(frame.image) for frame in found]
        assert sampled[0] == 0 and len(sampled) == math.ceil(2.4 / every - 1e-6)
        times = np.array([frame.time for frame in found])
        np.testing.assert_allclose(times, np.array(sampled) / 25, atol=0.011)
        assert (times - every * np.arange(len(times)) < 0.051).all()
        assert [frame.end for frame in found[:-1]] == times[1:].tolist()
        assert found[-1].end == pytest.approx(2.4, abs=0.05)
    for start, first in ((1.03, 25), (2.37, 59), (9.0, 59)):  # the frame on screen
        assert [number_of(frame.image) for frame in sample_frames(data, every=0, start=start)] == [*range(first, 60)]


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("h264", "libx264")])
def test_frames_by_another_choice(format: str, codec: str) -> None:
    frames = read_frames(clip(60, format, codec), frames=8, choose=plm_frame_indices)
    assert numbers(frames) == plm_frame_indices(60, 25.0, 8) != frame_indices(60, 8)
    part = read_frames(clip(60, format, codec), None, 8, 0.2, 0.35, choose=plm_frame_indices)
    assert numbers(part) == [5, 6, 7, 8]  # a short part gives no frame twice
    with pytest.raises(InputError, match=r"lasts 2\.400 s; there is nothing at 3 s"):
        read_frames(clip(60, format, codec), None, 8, 3.0, choose=plm_frame_indices)


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_another_choice_keeps_to_the_times_of_its_part(format: str) -> None:
    """It took all frames to be equally long: of a recording that slows down, the part from 4 s was that from 1.8 s."""
    ticks = (*range(0, 200, 4), *range(200, 1200, 100))  # 25 frames in a second for two seconds, then one
    data = clip(60, format, ticks=ticks)
    assert numbers(read_frames(data, None, 4, 4.0, 8.0, choose=plm_frame_indices)) == [52, 53, 55, 56]
    assert numbers(read_frames(data, None, 4, 1.0, 1.5, choose=plm_frame_indices)) == [25, 29, 33, 37]
    assert numbers(read_frames(data, None, 2, choose=plm_frame_indices))[0] == 0
    for rate in (25, 30):
        whole = clip(60, format, rate=rate)
        for first, last in ((6, 30), (12, 13), (0, 59)):
            part = read_frames(whole, None, 4, first / rate, last / rate, choose=plm_frame_indices)
            assert numbers(part) == plm_frame_indices(60, rate, 4, first / rate + 1e-9, last / rate + 1e-9)


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip())
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert numbers(read_frames(source, frames=3)) == [0, 29, 59]
    odd = tmp_path / "subfile,,start,0,end,9,,:%03d.mp4"  # FFmpeg would read a protocol and a pattern out of it
    odd.write_bytes(path.read_bytes())
    assert numbers(read_frames(odd, frames=3)) == [0, 29, 59]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [0, 29, 59]),
        (1.0, None, [25, 42, 59]),
        (0.5, 1.0, [12, 18, 24]),  # frame 12 is on screen at 0.5 s
        (1.01, 1.02, [25, 25, 25]),
        (2.39, 99.0, [59, 59, 59]),
    ],
)
def test_a_range_of_time(start: float | None, end: float | None, expected: list[int]) -> None:
    frames = read_frames(clip(), frames=3, start=start, end=end)
    assert numbers(frames) == expected
    assert np.allclose(frames.times, [index / 25 for index in expected])
    assert frames.frame_count == 60


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (2.4, None, "lasts 2.400 s; there is nothing at 2.4 s"),
        (-1.0, None, "from -1.0 s to None s is not a range of time"),
        (1.0, 0.9, "from 1.0 s to 0.9 s is not a range of time"),
        (float("nan"), None, "from nan s to None s is not a range of time"),
    ],
)
def test_a_range_outside_the_video(start: float, end: float | None, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read_frames(clip(), "clip.mp4", start=start, end=end)
    assert str(caught.value) == f"clip.mp4: {reason}"


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_variable_frame_rate(format: str) -> None:
    ticks = tuple(np.cumsum([0, *np.random.default_rng(0).integers(1, 30, 59)]).tolist())
    frames = read_frames(clip(format=format, ticks=ticks, rate=100), frames=8)
    expected = frame_indices(60, 8)
    assert numbers(frames) == expected
    assert np.allclose(frames.times, [ticks[index] / 100 for index in expected], atol=0.002)
    middle = read_frames(clip(format=format, ticks=ticks, rate=100), frames=1, start=ticks[30] / 100 + 0.005)
    assert numbers(middle) == [30]


@pytest.mark.parametrize(("ticks", "last"), [((0, 50), 0.5), ((0, 50, 90), 0.45), ((0,), 0.0)])
def test_where_no_frame_has_a_duration_the_last_one_has_the_average(ticks: tuple[int, ...], last: float) -> None:
    """As in what browsers record."""
    data = clip(len(ticks), "webm", "libvpx", ticks=ticks)
    at = data.index(DEFAULT_DURATION)
    frames = read_frames(data[:at] + b"\xec\x86" + data[at + 2 :], frames=1)  # an empty element of the same size
    assert frames.duration == pytest.approx(ticks[-1] / 100 + last)


@pytest.mark.parametrize(("first", "last"), [(20, 60), (17, 40), (0, 35)])
def test_what_an_edit_cut_off_is_not_there(first: int, last: int) -> None:
    frames = read_frames(trimmed(clip(), first, last), frames=8)
    assert numbers(frames) == [first + index for index in frame_indices(last - first, 8)]
    assert frames.frame_count == last - first and frames.complete and frames.times[0] == 0


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), None),
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),  # a telephone held upright: a quarter turn clockwise
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
        ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
    ],
)
def test_frames_stand_upright(matrix: tuple[int, int, int, int], turn: Image.Transpose | None) -> None:
    (image,) = read_frames(with_display_matrix(clip(3), *matrix), frames=1).images
    expected = numbered(0) if turn is None else numbered(0).transpose(turn)
    assert image.size == expected.size
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 8


def test_frames_do_not_stay_in_memory() -> None:
    """A long video must not wait for the garbage collector to free its frames, and the threads that scaled them."""
    gc.collect()
    gc.disable()
    try:
        threads = count_threads()
        for _ in sample_frames(clip(), every=0):
            pass
        read_frames(clip(), frames=30)
        left = sum(type(item) is av.VideoFrame for item in gc.get_objects())
        assert left <= 2 and count_threads() <= threads + 4
    finally:
        gc.enable()


def count_threads() -> int:
    """Threads of this process, FFmpeg's too; 0 where the system does not list them."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4")])
def test_a_video_without_frames(format: str, codec: str) -> None:
    with pytest.raises(MediaDecodeError, match=r"^nothing: (holds no |contains no |is not a video)"):
        read_frames(clip(0, format, codec), "nothing")


def test_far_frames_are_reached_by_seeking(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode = video._decode

    def counted(*arguments):
        for frame in decode(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "_decode", counted)
    data = clip(256, group=20)
    assert numbers(read_frames(data, frames=3)) == [0, 127, 255]
    assert len(decoded) <= 1 + 8 + 16  # from the key frames 0, 120 and 240
    decoded.clear()
    assert numbers(read_frames(data, frames=40)) == frame_indices(256, 40)
    assert len(decoded) <= 256


@pytest.mark.parametrize("surprise", ["a seek that overshoots", "a frame that is missing"])
def test_a_wrong_index_is_no_wrong_frame(surprise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = video._decode

    def surprising(container, stream, needed=None):
        if needed is None:
            yield from decode(container, stream)
            return
        frames = list(decode(container, stream, needed))
        yield from frames[1:] if surprise == "a seek that overshoots" else frames[:1]

    monkeypatch.setattr(video, "_decode", surprising)
    assert numbers(read_frames(clip(), frames=3)) == [0, 29, 59]


class _Container:
    """A container that cannot seek."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def seek(self, *_: object, **__: object) -> None:
        raise av.error.PermissionError(1, "Operation not permitted")


def test_a_failing_seek_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    opening = video.open_container

    @contextmanager
    def opened(*arguments: Any) -> Iterator[Any]:
        with opening(*arguments) as (container, stream):
            yield _Container(container), stream

    monkeypatch.setattr(video, "open_container", opened)
    assert numbers(read_frames(clip(), frames=3)) == [0, 29, 59]
    assert [number_of(frame.image) for frame in sample_frames(clip(), every=1.0)] == [0, 25, 50]


@pytest.mark.parametrize("rate", [12, 24, 30])
def test_times_are_rounded_once(rate: int, tmp_path: Path) -> None:
    """Fourteen seconds at 24 frames a second lasted 13.999999999999998 s, and at 30 13.8 s were 13.799999999999999."""
    path = tmp_path / "clip.mp4"
    with write_video(path, (16, 16), rate) as add:
        for _ in range(14 * rate):
            add(Image.new("RGB", (16, 16)))
    exact = [number / rate for number in range(14 * rate)]
    found = read_frames(path, frames=len(exact))
    assert found.times == exact and found.duration == 14
    sampled = list(sample_frames(path, every=0))
    assert [frame.time for frame in sampled] == exact and [frame.end for frame in sampled] == [*exact[1:], 14]


def beginning_at(seconds: int, format: str, codec: str, sound: bool) -> bytes:
    """A video of two seconds whose first frame is at this time; sound begins at 0."""
    with av.open(stream := io.BytesIO(), "w", format=format) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 128, 64, "yuv420p"
        audio = container.add_stream("libopus", rate=48000, layout="mono") if sound else None
        for number in range(50):
            frame = av.VideoFrame.from_image(numbered(number))
            frame.pts, frame.time_base = number + 25 * seconds, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 96000), np.float32), "fltp", "mono")
            silence.rate, silence.pts = 48000, 0
            container.mux([*audio.encode(silence), *audio.encode()])
    return stream.getvalue()


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(
    ("format", "codec"), [("matroska", "libx264"), ("webm", "libvpx"), ("asf", "msmpeg4"), ("mp4", "libx264")]
)
@pytest.mark.parametrize("seconds", [0, 3, 30])
def test_a_video_that_begins_later_is_whole(
    seconds: int, format: str, codec: str, sound: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if format == "asf" and sound:
        pytest.skip("FFmpeg writes another duration into such a file")
    frames = read_frames(data := beginning_at(seconds, format, codec, sound), "x", frames=3)
    assert frames.complete and not caplog.messages and (frames.times[0], frames.frame_count) == (0, 50)
    if format in ("matroska", "webm") and not sound:
        assert not read_frames(data[: len(data) * 2 // 3], "x").complete


@pytest.mark.parametrize(
    ("format", "codec", "options"),
    [
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("matroska", "libx264", {}),
        ("avi", "mpeg4", {}),
        ("mpeg", "mpeg2video", {}),
        ("flv", "libx264", {}),
    ],
)
def test_a_truncated_video_gives_what_is_there(
    format: str, codec: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    data = clip(format=format, codec=codec, **options)
    frames = read_frames(data[: int(len(data) * 0.7)], "cut.mp4", frames=5)
    assert 5 < frames.frame_count < 60 and not frames.complete
    assert numbers(frames)[0] == 0 and numbers(frames) == sorted(numbers(frames))
    assert caplog.record_tuples == [
        (
            "perception_encoder.preprocess.video",
            logging.WARNING,
            f"cut.mp4: ends early or is damaged; used the {frames.frame_count} frames that decode",
        )
    ]


@pytest.mark.parametrize(("format", "codec"), [("webm", "libvpx-vp9"), ("mp4", "libx264")])
def test_a_damaged_middle_is_told(format: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(clip(format=format, codec=codec, **({"movflags": "faststart"} if format == "mp4" else {})))
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    frames = read_frames(bytes(data), frames=8)
    assert not frames.complete and len(frames.images) == 8
    assert "damaged" in caplog.text


@pytest.mark.parametrize("name", ["bottles", "dog"])
def test_real_clips_equal_a_full_decode(name: str, real_data: Path) -> None:
    path = real_data / "clips" / f"{name}.mp4"
    frames = read_frames(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = frame_indices(frames.frame_count, 8)
        every = [(number, frame) for number, frame in enumerate(container.decode(stream))]
        assert len(every) == frames.frame_count
    for index, image, time in zip(wanted, frames.images, frames.times, strict=True):
        frame = every[index][1]
        assert np.array_equal(np.asarray(image), np.asarray(frame.to_image()))
        assert time == pytest.approx(frame.time - every[0][1].time)


@pytest.mark.parametrize("format", ["mp4", "mpegts"])
def test_sampling_goes_on_where_an_index_misleads(
    format: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seek = video._by_seeking

    def give_up(*arguments: Any) -> Iterator[Any]:
        yield from islice(seek(*arguments), 2)

    monkeypatch.setattr(video, "_by_seeking", give_up)
    found = list(sample_frames(clip(format=format), every=0.4))
    assert [number_of(frame.image) for frame in found] == [0, 10, 20, 30, 40, 50]


def test_sampling_errors() -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        next(sample_frames(clip(), every=-1))
    with pytest.raises(ConfigError, match="from -1 s on"):
        next(sample_frames(clip(), start=-1))
    with pytest.raises(MediaDecodeError, match=r"noise\.mp4"):
        next(sample_frames(b"noise" * 100, "noise.mp4"))


def test_sampling_holds_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Image.Image]] = []
    convert = FrameImages.convert

    def watched(*arguments: Any) -> Image.Image:
        image = convert(*arguments)
        made.append(weakref.ref(image))
        return image

    monkeypatch.setattr(FrameImages, "convert", watched)
    for _ in sample_frames(clip(), every=0.1):
        assert sum(ref() is not None for ref in made) <= 4


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("mov", "mjpeg")])
def test_frames_of_a_reduced_size(format: str, codec: str) -> None:
    """They are the same frames; a codec that can is decoded at half the size."""
    small = read_frames(clip(30, format, codec), side=32)
    whole = read_frames(clip(30, format, codec))
    assert {image.size for image in small.images} == {(64, 32)} and small.times == whole.times
    for reduced, image in zip(small.images, whole.images, strict=True):
        difference = np.asarray(reduced, float) - np.asarray(image.resize((64, 32), Image.Resampling.BOX), float)
        assert np.abs(difference).mean() < 6
        assert number_of(reduced.resize(image.size)) == number_of(image)
    assert {frame.image.size for frame in sample_frames(clip(30, format, codec), side=32)} == {(64, 32)}


def test_frames_that_are_too_large_together_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    content = clip(20)
    assert {image.size for image in read_frames(content, frames=4).images} == {(128, 64)}
    monkeypatch.setattr(video, "MAX_PIXELS", 4 * 64 * 32)
    admitted: list[int] = []
    frames = read_frames(content, frames=4, admit=admitted.append)
    assert {image.size for image in frames.images} == {(64, 32)} and admitted == [4 * 128 * 64 * 8]
    assert {image.size for image in read_frames(content, frames=1).images} == {(128, 64)}


def test_frames_that_are_larger_than_the_header_says_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BYTES", 4 * 3 * 128 * 64 - 1)
    with pytest.raises(MediaTooLargeError, match="178,956,970 pixels"):
        read_frames(clip(20), frames=3)
