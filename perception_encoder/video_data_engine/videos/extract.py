"""Copy a part of a video into a file of its own, without encoding anew."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from perception_encoder.errors import MediaDecodeError
from perception_encoder.inference.listing import Item
from perception_encoder.preprocess.media_types import SHARD_VIDEOS
from perception_encoder.preprocess.source import open_source
from perception_encoder.preprocess.video import INDEXED
from perception_encoder.preprocess.video_file import open_container


def extract_clip(item: Item) -> tuple[str, bytes]:
    """Return a clip's suffix, one of `SHARD_VIDEOS`, and its file: a whole video's own bytes, or a part's.

    A part is an MP4 that begins at the key frame before the clip, with an edit list that hides what comes before it.
    A codec that MP4 does not hold is copied to a Matroska file, which shows that beginning. A few
    frames after its end may follow, which others refer to. Raises InputError.
    """
    source, suffix = item.open(), PurePosixPath(item.path).suffix.lower().removeprefix(".")
    if item.start is None and item.end is None and suffix in SHARD_VIDEOS:
        with open_source(source, item.name) as (stream, _):
            return suffix, stream.read()
    last: av.error.FFmpegError | ValueError | None = None
    for suffix, container in (("mp4", "mp4"), ("mkv", "matroska")):
        try:
            return suffix, _copy(source, item.name, item.start or 0.0, item.end, container)
        except (av.error.FFmpegError, ValueError) as error:
            last = error
    raise MediaDecodeError(item.name, f"cannot be copied to MP4 or Matroska: {last}")


def _copy(source: Path | bytes, name: str, start: float, end: float | None, container: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory, open_source(source, name) as (stream, _):
        path = Path(directory, "clip")
        with open_container(stream, name) as (reader, video), av.open(str(path), "w", format=container) as writer:
            unit = video.time_base
            if unit is None:
                raise ValueError("its frames have no times")
            copy = writer.add_stream_from_template(video)
            begin = (video.start_time or 0) + round(start / unit)
            if reader.format.name in INDEXED:
                reader.seek(begin, stream=video)
            until = None if end is None else begin + float((end - start) / unit)
            for packet in _timed(_packets(reader, video, begin, until)):
                packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                packet.stream = copy
                writer.mux(packet)
        return path.read_bytes()


def _packets(reader: InputContainer, video: VideoStream, begin: int, end: float | None) -> list[Any]:
    """The packets in decoding order, from the last key frame up to tick `begin` to the last one shown before `end`."""
    chosen: list[Any] = []
    waiting: list[Any] = []  # shown later, but perhaps needed by one that is shown before
    for packet in reader.demux(video):
        if packet.pts is None or not packet.size:
            continue
        if end is not None and packet.dts is not None and packet.dts >= end:
            break
        if packet.is_keyframe and packet.pts <= begin:
            chosen, waiting = [], []
        waiting.append(packet)
        if end is None or packet.pts < end - 0.5:
            chosen.extend(waiting)
            waiting = []
    return chosen


def _timed(packets: list[Any]) -> list[Any]:
    """Give packets without a decoding time one, as Matroska's first: evenly before the next that has one."""
    step = next((packet.duration for packet in packets if packet.duration), 1)
    for later, packet in pairwise(reversed(packets)):
        if packet.dts is None:
            packet.dts = (later.pts if later.dts is None else later.dts) - step
    return [packet for packet in packets if packet.dts is not None]
