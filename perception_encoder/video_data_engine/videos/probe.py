"""Probe a video: what its container holds, its metadata, and the clips that it is cut into."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

from perception_encoder.errors import InputError, MediaDecodeError
from perception_encoder.preprocess.source import open_source
from perception_encoder.preprocess.video import read_frames
from perception_encoder.preprocess.video_file import decoding, open_container
from perception_encoder.video_data_engine.config import CutConfig
from perception_encoder.video_data_engine.record import ClipRecord
from perception_encoder.video_data_engine.videos.cuts import find_shot_changes, split_clips
from perception_encoder.video_data_engine.videos.metadata import read_metadata_fields

_BLOCK = 1 << 20


def probe_video(record: ClipRecord, config: CutConfig) -> dict[str, Any]:
    """Return what is known about a video, with its `clips`, ready for JSON.

    An item that is a part of a video is one clip, whatever its length. Raises InputError for anything that is not a
    video, is damaged beyond use, or holds no frame.
    """
    item = record.item
    source, name = item.open(), item.name
    with open_source(source, name) as (stream, _), decoding(name):
        digest, size = file_digest(stream), stream.tell()
        with open_container(stream, name) as (container, video):
            context = video.codec_context
            facts: dict[str, Any] = {
                "sha256": digest,
                "bytes": size,
                "container": container.format.name,
                "codec": context.name,
                "pixel_format": context.pix_fmt,
                "sound": bool(container.streams.audio),
            }
            tags = dict(container.metadata)
    first = read_frames(source, name, 1)
    facts |= {
        "duration": round(first.duration, 6),
        "frames": first.frame_count,
        "fps": round(first.frame_count / first.duration, 4) if first.duration > 0 else 0.0,
        "width": first.images[0].width,
        "height": first.images[0].height,
        "complete": first.complete,
    }
    fields, problems = read_metadata_fields(record.sidecar, tags, item.text)
    facts |= {"path": item.path, "metadata": fields, "problems": problems}
    return {**facts, "clips": _clips(record, source, first.duration, config)}


def file_digest(stream: BinaryIO) -> str:
    """Return the SHA-256 of a stream, which is read to its end."""
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _clips(
    record: ClipRecord, source: Path | bytes, duration: float, config: CutConfig
) -> list[tuple[float | None, float | None]]:
    item = record.item
    if item.start is not None or item.end is not None:
        if item.start is not None and item.start >= duration:
            raise InputError(item.name, f"lasts {duration:.3f} s; there is nothing at {item.start:g} s")
        return [(item.start, item.end)]
    if duration <= config.longest:
        return [(None, None)]
    clips = split_clips(duration, find_shot_changes(source, item.name, config), config)
    if not clips:
        raise MediaDecodeError(item.name, "holds no frames")
    return [*clips]
