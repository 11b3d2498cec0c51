"""Probe a video: what its container holds, what people said about it, and the clips that it is cut into.

Metadata are the JSON file beside it, tags of its container, and the text of a table. A long video is cut at its shot
changes, to the frame.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from perception_encoder.errors import InputError, MediaDecodeError, one_line
from perception_encoder.formats.tars import TarMember
from perception_encoder.preprocess.frames import colour_change, colour_histogram
from perception_encoder.preprocess.source import open_source
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.preprocess.video_file import decoding, open_container
from perception_encoder.video_data_engine.config import CutConfig
from perception_encoder.video_data_engine.record import ClipRecord

_BLOCK = 1 << 20
_SIDE = 64
"""Short side of the frames that are compared."""
_REFINED = 16
"""Frames between two sampled ones in which the change itself is looked for."""
FIELDS = {
    "title": ("title", "video_title", "fulltitle"),
    "description": ("description", "comment", "synopsis"),
    "keywords": ("keywords", "tags"),
    "category": ("category_name", "category", "categories", "genre"),
}
"""Our field → names in files and tags, the first that holds a text."""
LONGEST = 2000
"""Characters of a text; the rest of a longer one is cut off."""
MOST_BYTES = 16 << 20
_JOINERS = "\u200c\u200d"
"""Unprintable, but part of words in Persian and Hindi, and of emoji."""


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


def read_metadata_fields(
    sidecar: Path | TarMember | None, tags: Mapping[str, Any], text: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return the `FIELDS` that are known, and what is wrong with the sidecar.

    A sidecar comes before the container's tags; `text`, a table's, is the description if the others lack one.
    """
    problems: list[str] = []
    sources: list[Mapping[str, Any]] = []
    if sidecar is not None:
        try:
            sources.append(_read(sidecar))
        except (OSError, ValueError, RecursionError, InputError) as error:
            problems.append(f"its JSON file cannot be read: {one_line(error)}"[:300])
    sources += [{name.lower(): value for name, value in tags.items()}, {"description": text}]
    fields = {}
    for field, names in FIELDS.items():
        values = (_as_text(source.get(name)) for source in sources for name in names)
        if value := next(filter(None, values), ""):
            fields[field] = value
    return fields, problems


def _read(sidecar: Path | TarMember) -> Mapping[str, Any]:
    if isinstance(sidecar, Path):
        if sidecar.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        content = sidecar.read_bytes()
    else:
        content = sidecar.read(str(sidecar.tar))
    value = json.loads(content.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError("it holds no object")
    return value


def _as_text(value: Any) -> str:
    """A text, or a list of texts with commas, on one line; empty for anything else."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(c if c.isprintable() or c.isspace() or c in _JOINERS else " " for c in value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
