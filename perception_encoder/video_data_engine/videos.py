"""Raw videos: list them, probe them with their metadata, split them into clips, and sample a clip's frames."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from perception_encoder.errors import DataError, InputError, one_line
from perception_encoder.files import cached_by_file, digest
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.formats.shards import json_object
from perception_encoder.formats.tars import TarMember, open_tar
from perception_encoder.preprocess.frames import VideoFrames, colour_change, colour_histogram, plm_frame_indices
from perception_encoder.preprocess.image import image_file
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, escape_name, open_source
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.preprocess.video_file import decoding, open_container
from perception_encoder.video_data_engine.config import EngineConfig
from perception_encoder.video_data_engine.journal import FRAMES, ClipRecord

logger = logging.getLogger(__name__)

SIDECARS = (".json", ".info.json")
"""Suffixes of a video's JSON file: `clip.mp4` has `clip.json`, as in WebDataset, or yt-dlp's `clip.info.json`."""
FIELDS = {
    "title": ("title", "video_title", "fulltitle"),
    "description": ("description", "comment", "synopsis"),
    "keywords": ("keywords", "tags"),
    "category": ("category_name", "category", "categories", "genre"),
}
"""Our fields → names in files and tags; the first one with text counts."""
MAX_TEXT = 2000
"""Maximum number of characters of a text."""
MAX_SIDECAR_BYTES = 16 << 20
QUALITY = 92
"""Quality of the frames' JPEG files."""
_COMPARED_SECONDS = 0.25
"""Seconds between frames that are compared to find shot changes."""
SHOT_CHANGE = 0.4
"""Minimum share of the image with changed colours between consecutive frames at a shot change, in 0–1."""
_COMPARED_SIDE = 64
"""Short side of the frames that are compared to find shot changes."""
_REFINED = 16
"""Maximum number of frames between two samples in which to search for the first frame of a shot."""
_JOINERS = "\u200c\u200d"
"""Unprintable, but part of words in Persian and Hindi, and of emoji."""


def list_videos(paths: Iterable[str | Path]) -> Iterator[ClipRecord]:
    """Yield a record for each video, in the order of `list_items`, leaving out images and texts.

    An input that cannot be listed is a record whose item raises the reason. A file that is named twice is listed once.
    """
    keys: set[str] = set()
    for item in list_items(paths):
        is_text = item.source is None and item.problem is None
        if is_text or PurePosixPath(item.path).suffix.lower() in IMAGE_SUFFIXES:
            continue
        key = make_key(item)
        if key not in keys:
            keys.add(key)
            yield ClipRecord(key=key, item=item, sidecar=_find_sidecar(item))


def make_key(item: Item) -> str:
    """Return a unique name for an item: its file name with a hash of its full path and range."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(item.path).stem)[:40].strip("_")
    path = item.path
    if isinstance(item.source, Path):
        path = os.path.abspath(item.source)
    elif isinstance(item.source, TarMember):  # a relative path may be of another tar elsewhere
        path = os.path.abspath(item.source.tar) + item.path.removeprefix(escape_name(item.source.tar))
    return f"{stem or 'video'}-{digest(str(path), item.start, item.end)[:10]}"


def _find_sidecar(item: Item) -> Path | TarMember | None:
    if isinstance(item.source, Path):
        candidates = (item.source.with_name(item.source.stem + suffix) for suffix in SIDECARS)
        return next((path for path in candidates if path.is_file()), None)
    if isinstance(item.source, TarMember):
        return _json_members(item.source.tar).get(str(PurePosixPath(item.path).with_suffix("")))
    return None


@cached_by_file(1)
def _json_members(tar: Path) -> dict[str, TarMember]:
    """Return the JSON files of a tar by `Item.path` without suffix; the items report a damaged tar."""
    members: dict[str, TarMember] = {}
    with suppress(DataError), open_tar(tar) as (_, entries):
        for entry in entries:
            name = PurePosixPath(entry.name)
            if name.suffix.lower() == ".json" and entry.problem is None:
                stem = escape_name(str(name.with_suffix("")).removesuffix(".info"))
                path = str(PurePosixPath(f"{escape_name(tar)}/{stem}"))
                members.setdefault(path, TarMember(tar, entry.offset, entry.size))
    return members


def probe_video(record: ClipRecord, config: EngineConfig) -> dict[str, Any]:
    """Return the facts, metadata and `clips` of a video as JSON values.

    An item that is a part of a video is one clip of any length. Raises InputError for anything that is not a video, is
    damaged beyond use, or has no frames.
    """
    item = record.item
    source, name = item.open(), item.name
    with open_source(source, name) as (stream, _), decoding(name):
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        with open_container(stream, name) as (container, video):
            codec, tags = video.codec_context.name, dict(container.metadata)
    first = read_frames(source, name, 1)
    return {
        "path": item.path,
        "sha256": digest,
        "codec": codec,
        "duration": round(first.duration, 6),
        "frames": first.frame_count,
        "fps": round(first.frame_count / first.duration, 4) if first.duration > 0 else 0.0,
        "width": first.images[0].width,
        "height": first.images[0].height,
        "metadata": read_metadata_fields(record.sidecar, tags, item.text),
        "clips": _find_clips(item, source, first.duration, config),
    }


def _find_clips(
    item: Item, source: Path | bytes, duration: float, config: EngineConfig
) -> list[tuple[float | None, float | None]]:
    if item.start is not None or item.end is not None:
        if item.start is not None and item.start >= duration:
            raise InputError(item.name, f"lasts {duration:.3f} s; there is nothing at {item.start:g} s")
        return [(item.start, item.end)]
    if duration <= config.longest:
        return [(None, None)]
    return [*split_clips(duration, find_shot_changes(source, item.name), config)]


def find_shot_changes(source: Path | bytes, name: str) -> list[float]:
    """Return the times in seconds at which new shots begin, without the start of the video.

    Frames are compared at a steady rate. Between two that differ, the first frame of a new shot is searched; if no two
    consecutive frames differ enough, something only moved.
    """
    changes: list[float] = []
    before = None
    last = 0.0
    for frame in sample_frames(source, name, _COMPARED_SECONDS, side=_COMPARED_SIDE):
        colours = colour_histogram(frame.image)
        if before is not None and colour_change(before, colours) > SHOT_CHANGE:
            end = math.nextafter(frame.time + 1e-3, math.inf)
            near = read_frames(source, name, _REFINED, last, end, side=_COMPARED_SIDE)
            steps = [colour_change(*pair) for pair in itertools.pairwise(map(colour_histogram, near.images))]
            if not steps:
                changes.append(frame.time)
            elif max(steps) > SHOT_CHANGE:
                changes.append(near.times[1 + steps.index(max(steps))])
        before, last = colours, frame.time
    return changes


def split_clips(duration: float, changes: Sequence[float], config: EngineConfig) -> list[tuple[float, float]]:
    """Return clips (start, end) that cover a video, each from `shortest` to `longest` seconds.

    A shot that is too short is merged with the one before it, the first with the one after it; a shot that is too long
    is split evenly. A video of at most `longest` seconds is one clip.
    """
    if duration <= config.longest:
        return [(0.0, duration)]
    edges = [0.0]
    for change in changes:
        if change - edges[-1] >= config.shortest and duration - change >= config.shortest:
            edges.append(change)
    clips: list[tuple[float, float]] = []
    for start, end in itertools.pairwise([*edges, duration]):
        parts = math.ceil((end - start) / config.longest - 1e-9)
        clips += itertools.pairwise(start + (end - start) * part / parts for part in range(parts + 1))
    return [(round(start, 6), round(end, 6)) for start, end in clips]


def read_metadata_fields(sidecar: Path | TarMember | None, tags: Mapping[str, Any], text: str | None) -> dict[str, str]:
    """Return the known `FIELDS`; a sidecar that cannot be read is a warning.

    The sidecar takes precedence over the container's tags; `text`, from a table, is the description if neither has one.
    """
    sources: list[Mapping[str, Any]] = []
    if sidecar is not None:
        where = str(sidecar.with_suffix("") if isinstance(sidecar, Path) else f"{sidecar.tar}: a video's")
        try:
            if (sidecar.stat().st_size if isinstance(sidecar, Path) else sidecar.size) > MAX_SIDECAR_BYTES:
                raise DataError(f"{where}.json has more than {MAX_SIDECAR_BYTES:,} bytes")
            content = sidecar.read_bytes() if isinstance(sidecar, Path) else sidecar.read(where)
            sources.append(json_object(where, content))
        except (OSError, DataError, InputError) as error:
            logger.warning("metadata is left out: %s", one_line(error))
    sources += [{name.lower(): value for name, value in tags.items()}, {"description": text}]
    texts = {
        field: next(filter(None, (_as_text(source.get(name)) for source in sources for name in names)), "")
        for field, names in FIELDS.items()
    }
    return {field: text for field, text in texts.items() if text}


def _as_text(value: Any) -> str:
    """Return a text, or a list of texts joined by commas, on one line; empty for anything else."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(c if c.isprintable() or c.isspace() or c in _JOINERS else " " for c in value).split())
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def sample_clip(record: ClipRecord, count: int, side: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Return a clip's range and frame times, with at most `count` frames as JPEG, reduced to the short side `side`.

    Frames are those that the published PLM reads. Raises InputError as `read_frames` does.
    """
    item = record.item
    frames = read_frames(item.open(), item.name, count, item.start, item.end, choose=plm_frame_indices, side=side)
    value = {
        "video": record.video or record.key,
        "start": item.start,
        "end": item.end,
        "times": [round(time, 6) for time in frames.times],
    }
    return value, tuple(image_file(image.convert("RGB"), "JPEG", quality=QUALITY) for image in frames.images)


def open_clip_frames(record: ClipRecord) -> VideoFrames:
    """Return the sampled frames as a captioner reads them."""
    images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in record.frames]
    times: Sequence[float] = record.results[FRAMES]["times"]
    return VideoFrames(list(images), list(times), times[-1], len(images), True)
