"""Decode videos to frames: n uniform ones ⌊i·(T−1)/(n−1)⌋ of all T (section 2.2), with their times.

The packets give T and every frame's time, whatever the container claims. Frames are reached by seeking to the key frame
before each, where the index can be trusted; else, or if a seek or a damaged packet surprises, everything is decoded.
"""

from __future__ import annotations

import bisect
import logging
import math
import os
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, MediaDecodeError
from perception_encoder.preprocess.budget import DECODING, MAX_BYTES, MAX_PIXELS, PIXEL_BYTES, Admit, map_ahead
from perception_encoder.preprocess.frames import FrameChoice, VideoFrames, colour_histogram, frame_indices, is_cut
from perception_encoder.preprocess.source import Source, open_source
from perception_encoder.preprocess.video_file import FrameImages, decoding, open_container, recorded

logger = logging.getLogger(__name__)

INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""Containers with a seek index and a presentation time for each frame."""

_FROM_ZERO = {"matroska,webm", "asf"}  # containers whose duration counts from 0, wherever the video begins
_STORED_BYTES = 4  # of a decoded pixel
_ROUNDED = 5e-4  # seconds by which containers round times
_SEEK_OVER = 12
"""Number of frames that can be decoded in the time of a seek."""
_PART, _LONGEST_PART = 4, 16
"""Frames that a core decodes at once, at least and at most: all of a part are in memory."""
_DECODER_BYTES = 25
"""Of a decoder that holds sixteen frames to refer to, for each pixel of the video."""
_Opened = tuple[InputContainer, VideoStream]
_Found = tuple[int, Image.Image, tuple[int, int]]
"""A frame's number, image, and whole width and height."""
IDLE_CORES = threading.Semaphore((os.cpu_count() or 1) - 1)
"""Cores for parts of a video beside the one that the caller's thread has; for all videos of the process."""


def read_frames(
    source: Source,
    name: str | None = None,
    frames: int = 8,
    start: float | None = None,
    end: float | None = None,
    admit: Admit | None = None,
    choose: FrameChoice | None = None,
    side: int | None = None,
) -> VideoFrames:
    """Decode uniform frames of a video; a short one gives frames twice. A file that ends early or is damaged gives what
    is there, and a logged warning. Frames of more than `MAX_PIXELS` together are reduced. Raises MediaNotFoundError,
    MediaDecodeError (no video, no frames), MediaTooLargeError and InputError (a range outside the video).

    Args:
        start, end: Seconds; takes what is on screen from `start` until just before `end` (one frame if they are equal).
        admit: Called with the bytes that the frames take before they are decoded: see `ByteBudget`.
        choose: Another choice of frames, such as `plm_frame_indices`.
        side: Reduce larger frames to this short side, which takes a fraction of the time of a later resize.
    """
    with open_source(source, name) as (stream, name):
        if not 0 <= (start or 0) <= (float("inf") if end is None else end):
            raise InputError(name, f"from {start} s to {end} s is not a range of time")
        with decoding(name):
            return _read(stream, name, _Selection(frames, start or 0.0, end, choose, side), admit)


@dataclass(frozen=True)
class _Selection:
    """Which frames to take."""

    count: int
    start: float
    end: float | None
    choose: FrameChoice | None
    side: int | None


@dataclass(frozen=True)
class SampledFrame:
    """A frame of `sample_frames`."""

    image: Image.Image
    time: float
    """Seconds from the video's first frame."""
    end: float
    """Time of the next frame, or of the end of the video."""
    size: tuple[int, int]
    """Width and height of the whole frame, upright."""
    recorded: datetime | None
    """See `recorded`."""


def sample_frames(
    source: Source,
    name: str | None = None,
    every: float = 1.0,
    start: float = 0.0,
    side: int | None = None,
    near: bool = False,
) -> Iterator[SampledFrame]:
    """Decode a frame every `every` seconds (0: every frame), one at a time, with at most two in memory. Damage and
    errors are treated as `read_frames` does; before an error is raised, frames may have been given.

    Args:
        start: The first frame is the one on screen at this second, at the latest the last.
        side: See `read_frames`. With `near`, idle cores then decode further parts, so more frames are in memory.
        near: Of a path or bytes, take a key frame instead where one is at most half of `every` away, in a fraction of
            the time; each interval still has a frame, and shots change at the same times.
    """
    if not every >= 0 or not start >= 0:
        raise ConfigError(f"a frame every {every:g} s from {start:g} s on: both must be at least 0")
    with (
        open_source(source, name) as (stream, name),
        decoding(name),
        closing(_sample(source, stream, name, every, start, side, near)) as frames,
    ):
        waiting: SampledFrame | None = None
        for sampled in frames:
            if waiting is not None:
                yield replace(waiting, end=sampled.time)
            waiting = sampled
        if waiting is None:
            raise MediaDecodeError(name, "holds no frame that decodes")
        yield replace(waiting, end=max(waiting.end, waiting.time))


def frame_rate(source: Source, name: str | None = None) -> float:
    """Return a video's mean frame rate, 1 for a single frame; raises what `read_frames` does."""
    with open_source(source, name) as (stream, name), decoding(name), open_container(stream, name) as opened:
        timeline = _scan(*opened, name)
    duration = timeline.times[-1]
    return (len(timeline.ticks) - 1) / duration if duration > 0 else 1.0


@dataclass(frozen=True)
class _Timeline:
    """The frames of a video as ticks (of `unit` seconds), in display order."""

    ticks: list[int]
    keys: list[int]
    """Ticks of the key frames."""
    unit: Fraction
    last: int
    """Duration of the last frame in ticks."""
    indexed: bool
    """Whether frames can be found by tick."""
    complete: bool

    def seconds(self, tick: int) -> float:
        """Return the time of a tick, correctly rounded: 14.0, not 13.999999999999998."""
        return (tick - self.ticks[0]) * self.unit.numerator / self.unit.denominator

    @property
    def times(self) -> list[float]:
        return [self.seconds(tick) for tick in self.ticks]

    @property
    def duration(self) -> float:
        return self.seconds(self.ticks[-1] + self.last)


def _read(stream: BinaryIO, name: str, selection: _Selection, admit: Admit | None) -> VideoFrames:
    with open_container(stream, name) as (container, video):
        selection = _within_budget(selection, video)
        if admit is not None:
            admit(min(video.width * video.height * selection.count * PIXEL_BYTES, MAX_BYTES))
        timeline = _scan(container, video, name)
        numbers = _frame_numbers(timeline, name, selection) if timeline.indexed else []
        converter = FrameImages(name, selection.side, MAX_BYTES // _STORED_BYTES)
        found = _by_seeking(container, video, timeline, sorted(set(numbers)), converter)
        images = {number: image for number, image, _ in found}
    if not numbers or images.keys() != set(numbers):
        timeline, numbers, images = _by_counting(stream, name, timeline, selection)
    _warn_of_damage(timeline, name)
    times = timeline.times
    return VideoFrames(
        images=[images[index] for index in numbers],
        times=[times[index] for index in numbers],
        duration=timeline.duration,
        frame_count=len(times),
        complete=timeline.complete,
    )


def _within_budget(selection: _Selection, video: VideoStream) -> _Selection:
    """Reduce frames that together have more than `MAX_PIXELS`, such as sixteen of 8K."""
    together = video.width * video.height * selection.count
    if together <= MAX_PIXELS:
        return selection
    side = max(1, int(min(video.width, video.height) * math.sqrt(MAX_PIXELS / together)))
    return replace(selection, side=min(side, selection.side or side))


def _sample(
    source: Source, stream: BinaryIO, name: str, every: float, start: float, side: int | None, near: bool
) -> Generator[SampledFrame, None, None]:
    """Yield a frame every `every` seconds, by seeking while that works, then decoding all; `end` is the video's."""
    near = near and isinstance(source, Path | bytes)
    with open_container(stream, name, near) as (container, video):
        timeline = _scan(container, video, name)
        times, end, taken = timeline.times, timeline.duration, recorded(container)
        first = due = times[max(0, bisect.bisect_right(times, start) - 1)]
        numbers = []
        for number, time in enumerate(times):
            if time >= due:
                numbers.append(number)
                due = _next_due(time, every)
        due = first
        exact, numbers = numbers, _near(timeline, numbers, every) if near else numbers
        if timeline.indexed:
            images, again = FrameImages(name, side), source if near and side else None
            with closing(_in_parts(again, (container, video), timeline, numbers, images)) as frames:
                for number, image, size in _keep_cuts(frames, source, timeline, exact, images) if near else frames:
                    yield SampledFrame(image, times[number], end, size, taken)
                    due = _next_due(times[number], every)
    if timeline.indexed and due > times[numbers[-1]]:
        _warn_of_damage(timeline, name)
        return
    damaged, images = not timeline.complete, FrameImages(name, side)
    with open_container(stream, name) as (container, video):
        for number, frame in enumerate(_decode(container, video)):
            late = max(0, number - len(times) + 1)
            time = timeline.seconds(timeline.ticks[min(number, len(times) - 1)] + late * timeline.last)
            damaged |= frame is None or frame.is_corrupt
            if frame is not None and time >= due:
                yield SampledFrame(images.convert(frame), time, end, images.size, taken)
                due = _next_due(time, every)
    _warn_of_damage(replace(timeline, complete=not damaged), name)


def _near(timeline: _Timeline, numbers: list[int], every: float) -> list[int]:
    """Replace all but the first by key frames, so that each interval has one, and each frame one within half of it."""
    times = timeline.times
    keys = [bisect.bisect_left(timeline.ticks, key) for key in timeline.keys]
    chosen = {numbers[0]}
    for number, following in pairwise([*numbers[1:], len(times)]):
        key = next(iter(keys[bisect.bisect_left(keys, number) :][:1]), following)
        chosen.add(key if key < following else number)
    ordered = sorted(chosen)
    for number in numbers:
        at = bisect.bisect_left(ordered, number)
        before = bisect.bisect_left(keys, number) - 1
        for near in [*ordered[max(0, at - 1) : at + 1], keys[max(0, before)] if keys else number, number]:
            if abs(times[near] - times[number]) <= every / 2:
                chosen.add(near)
                break
    return sorted(chosen)


def _keep_cuts(
    frames: Iterator[_Found], source: Source, timeline: _Timeline, exact: list[int], images: FrameImages
) -> Iterator[_Found]:
    """Yield the frames; where they show another shot than the last, `exact` ones before, or instead until one does."""
    last, colours = -1, None
    for found in frames:
        after = colour_histogram(found[1])
        while colours is not None and last < found[0] and is_cut(colours, after):
            number = exact[min(bisect.bisect_right(exact, last), len(exact) - 1)]
            if number == found[0]:
                break
            if number <= last:  # there are no more
                return
            with open_source(source, images.name) as (stream, name), open_container(stream, name) as opened:
                shown = next(_by_seeking(*opened, timeline, [number], images), None)
            if shown is None:
                return
            yield shown
            last, colours = number, colour_histogram(shown[1])
        if last < found[0]:
            yield found
            last, colours = found[0], after


def _next_due(time: float, every: float) -> float:
    if every == 0:
        return math.nextafter(time, math.inf)
    return (math.floor(time / every + 1e-3) + 1) * every - 1e-3 * every  # containers round times


def _warn_of_damage(timeline: _Timeline, name: str) -> None:
    if not timeline.complete:
        logger.warning("%s: ends early or is damaged; used the %d frames that decode", name, len(timeline.ticks))


def _scan(container: InputContainer, video: VideoStream, name: str) -> _Timeline:
    """Read every packet without decoding any; MediaDecodeError if there are no frames."""
    ticks: list[int | None] = []
    keys, last, whole = [], 0, True
    ends: dict[int, int] = {}  # of each stream, in its own ticks
    for packet in _packets(container.demux()):
        if packet is None:
            whole = False
            continue
        pts, duration = packet.pts, packet.duration or 0
        if pts is not None:
            index = packet.stream_index
            ends[index] = max(ends.get(index, 0), pts + duration)
        if packet.stream is not video or not packet.size:
            continue
        if packet.is_corrupt:
            whole = False
        elif not packet.is_discard:
            ticks.append(pts)
            last = duration or last
            if pts is not None and packet.is_keyframe:
                keys.append(pts)
    if not ticks:
        raise MediaDecodeError(name, "holds no frames")
    units = {stream.index: stream.time_base for stream in container.streams}  # some streams begin midway
    end = max((float(at * unit) for index, at in ends.items() if (unit := units.get(index))), default=0.0)
    start = 0 if container.format.name in _FROM_ZERO else max(0, container.start_time or 0)
    declared = ((container.duration or 0) + start) / av.time_base
    whole = whole and declared - end < max(0.25, 0.01 * declared)
    return _timeline(container, video, ticks, sorted(keys), last, whole)


def _timeline(
    container: InputContainer, video: VideoStream, ticks: list[int | None], keys: list[int], last: int, whole: bool
) -> _Timeline:
    """Sort the ticks; if they are missing or repeat, number frames at the average rate."""
    ordered = sorted({tick for tick in ticks if tick is not None})
    if len(ordered) == len(ticks) and video.time_base is not None:
        unit = video.time_base
        last = last or ((ordered[-1] - ordered[0]) // (len(ordered) - 1) if len(ordered) > 1 else 0)
        return _Timeline(ordered, keys, unit, last, container.format.name in INDEXED, whole)
    return _Timeline(list(range(len(ticks))), [], 1 / Fraction(video.average_rate or 25), 1, False, whole)


def _frame_numbers(timeline: _Timeline, name: str, selection: _Selection) -> list[int]:
    """Return the numbers of the frames to take, in display order."""
    times, start, end = timeline.times, selection.start, selection.end
    duration = timeline.duration
    if start and start >= duration:
        raise InputError(name, f"lasts {duration:.3f} s; there is nothing at {start:g} s")
    if selection.choose is not None:
        rate = len(times) / duration if duration > 0 else 1.0
        first = bisect.bisect_right(times, start + _ROUNDED) - 1
        last = len(times) if end is None else bisect.bisect_right(times, end + _ROUNDED)  # PLM's holds its end
        return [first + index for index in selection.choose(last - first, rate, selection.count)]
    first = bisect.bisect_right(times, start) - 1
    last = len(times) - 1 if end is None else bisect.bisect_left(times, end) - 1
    return [first + index for index in frame_indices(max(first, last) - first + 1, selection.count)]


def _by_seeking(
    container: InputContainer, video: VideoStream, timeline: _Timeline, numbers: list[int], images: FrameImages
) -> Generator[_Found, None, None]:
    """Decode only the wanted frames, from the key frame before each; stop if the file differs from its index."""
    needed = {timeline.ticks[number] for number in numbers}
    frames: Iterator[VideoFrame | None] = iter(())
    position = -math.inf  # number of the frame decoded last; none so far, as the container has been read to its end
    for number in numbers:
        tick = timeline.ticks[number]
        before = bisect.bisect_right(timeline.keys, tick) - 1
        key = bisect.bisect_left(timeline.ticks, timeline.keys[before]) if before >= 0 else 0
        if key - position > _SEEK_OVER:
            try:
                container.seek(timeline.ticks[key], stream=video)
            except av.error.FFmpegError:
                return
            frames = _decode(container, video, needed) if number > key else iter(_decode_one(container, video))
        for frame in frames:
            if frame is None or frame.pts is None or frame.pts > tick or (frame.pts == tick and frame.is_corrupt):
                return
            if frame.pts == tick:
                yield number, images.convert(frame), images.size
                break
        else:
            return
        position = number if number > key else -math.inf


def _in_parts(
    source: Source | None, opened: _Opened, timeline: _Timeline, numbers: list[int], images: FrameImages
) -> Generator[_Found, None, None]:
    """Decode as `_by_seeking`, but parts that begin at key frames on idle cores, if the source can be opened again."""
    parts: list[list[int]] = [[]]
    keys = [bisect.bisect_right(timeline.keys, timeline.ticks[number]) for number in numbers]
    for number, key, before in zip(numbers, keys, [0, *keys][:-1], strict=True):
        if key > before and len(parts[-1]) >= _PART:
            parts.append([])
        parts[-1].append(number)
    video = opened[1]
    divided = isinstance(source, Path | bytes) and max(map(len, parts)) <= _LONGEST_PART
    divided = divided and not video.codec_context.is_hwaccel
    most = DECODING.limit // (_DECODER_BYTES * max(1, video.width * video.height)) if divided else 0
    with ExitStack() as stack:
        idle = [stack.callback(IDLE_CORES.release) for _ in parts[1 : 1 + most] if IDLE_CORES.acquire(blocking=False)]
        if source is None or not idle:
            yield from _by_seeking(*opened, timeline, numbers, images)
            return
        decoders = [opened]

        def decode(part: list[int]) -> list[_Found]:
            try:
                decoder = decoders.pop()
            except IndexError:
                stream, name = stack.enter_context(open_source(source, images.name))
                decoder = stack.enter_context(open_container(stream, name))
            found = list(_by_seeking(*decoder, timeline, part, FrameImages(images.name, images.side)))
            decoders.append(decoder)
            return found

        with ThreadPoolExecutor(len(idle) + 1, "decode") as pool:  # which ends before the containers are closed
            for part, found in zip(parts, map_ahead(decode, parts, pool, len(idle) + 2), strict=True):
                yield from found
                if len(found) < len(part):
                    return


def _by_counting(
    stream: BinaryIO, name: str, timeline: _Timeline, selection: _Selection
) -> tuple[_Timeline, list[int], dict[int, Image.Image]]:
    """Decode everything, twice if the numbers of frames and packets differ."""
    for _ in range(2):
        numbers = _frame_numbers(timeline, name, selection)
        images: dict[int, Image.Image] = {}
        ticks: list[int | None] = []
        converter = FrameImages(name, selection.side, MAX_BYTES // _STORED_BYTES)
        with open_container(stream, name) as (container, video):
            for frame in _decode(container, video):
                if frame is None or frame.is_corrupt:
                    timeline = replace(timeline, complete=False)
                if frame is None:
                    continue
                if len(ticks) in numbers:
                    images[len(ticks)] = converter.convert(frame)
                ticks.append(frame.pts)
            if not ticks:
                raise MediaDecodeError(name, "holds no frame that decodes")
            if images.keys() == set(numbers) and len(ticks) == len(timeline.ticks):
                return timeline, numbers, images
            timeline = _timeline(container, video, ticks, [], 0, timeline.complete and len(ticks) > len(timeline.ticks))
    raise MediaDecodeError(name, "decodes to another number of frames each time")


def _decode(
    container: InputContainer, video: VideoStream, needed: set[int] | None = None
) -> Iterator[VideoFrame | None]:
    """Yield the frames from the current position on, and None for each damaged packet.

    With `needed` ticks, frames at other ticks that no frame refers to may be left out undecoded.
    """
    for packet in _packets(container.demux(video)):
        if packet is None:
            yield None
            continue
        if needed is not None:
            video.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            yield None
            continue
        yield from decoded
    with suppress(av.error.FFmpegError):  # it has been flushed already if reading ended well
        yield from video.decode(None)


def _decode_one(container: InputContainer, video: VideoStream) -> list[VideoFrame]:
    """Return the frame of the next packet alone: a decoder takes further packets before it gives its first."""
    with suppress(av.error.FFmpegError):
        for packet in _packets(container.demux(video)):
            return [] if packet is None else [*packet.decode(), *video.decode(None)]
    return []


def _packets(packets: Iterator[Packet]) -> Iterator[Packet | None]:
    """Yield all packets, and None where the file becomes unreadable."""
    while True:
        try:
            yield next(packets)
        except (StopIteration, IndexError):  # IndexError: PyAV's at the end, where a stream appeared midway
            return
        except av.error.FFmpegError:
            yield None
            return
