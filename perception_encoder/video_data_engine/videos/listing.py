"""List the videos that paths hold, each with its key and the JSON file of metadata beside it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from perception_encoder.errors import DataError
from perception_encoder.files import cached_by_file
from perception_encoder.formats.tars import TarMember, walk_tar
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.preprocess.media_types import IMAGE_SUFFIXES
from perception_encoder.preprocess.source import escape_name
from perception_encoder.video_data_engine.record import ClipRecord

SIDECARS = (".json", ".info.json")
"""Suffixes of a video's JSON file: `clip.mp4` has `clip.json`, as in WebDataset, or yt-dlp's `clip.info.json`."""


def list_videos(paths: Iterable[str | Path]) -> Iterator[ClipRecord]:
    """Yield a record for each video, in the order of `list_items`; files with an image's suffix and texts are left out.

    What cannot be listed is a record whose item raises the reason. A file that is named twice is listed once.
    """
    keys: set[str] = set()
    for item in list_items(paths):
        is_text = item.source is None and item.problem is None
        if is_text or PurePosixPath(item.path).suffix.lower() in IMAGE_SUFFIXES:
            continue
        key = make_key(item)
        if key not in keys:
            keys.add(key)
            yield ClipRecord(key=key, item=item, sidecar=_sidecar(item))


def make_key(item: Item) -> str:
    """Return a name that tells an item from all others: of its file, and a hash of its whole path and its range."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(item.path).stem)[:40].strip("_")
    path = item.path
    if isinstance(item.source, Path):
        path = os.path.abspath(item.source)
    elif isinstance(item.source, TarMember):  # a relative tar may be another one elsewhere
        path = os.path.abspath(item.source.tar) + item.path.removeprefix(escape_name(item.source.tar))
    digest = hashlib.sha256(f"{path}\0{item.start}\0{item.end}".encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{stem or 'video'}-{digest}"


def _sidecar(item: Item) -> Path | TarMember | None:
    if isinstance(item.source, Path):
        candidates = (item.source.with_name(item.source.stem + suffix) for suffix in SIDECARS)
        return next((path for path in candidates if path.is_file()), None)
    if isinstance(item.source, TarMember):
        return _json_members(item.source.tar).get(str(PurePosixPath(item.path).with_suffix("")))
    return None


@cached_by_file(1)
def _json_members(tar: Path) -> dict[str, TarMember]:
    """Return the JSON files of a tar by `Item.path` without suffix; a damaged one is reported by its items."""
    members: dict[str, TarMember] = {}
    try:
        with tar.open("rb") as stream:
            for entry in walk_tar(stream, os.fstat(stream.fileno()).st_size):
                name = PurePosixPath(entry.name)
                if name.suffix.lower() == ".json" and entry.problem is None:
                    stem = escape_name(str(name.with_suffix("")).removesuffix(".info"))
                    path = str(PurePosixPath(f"{escape_name(tar)}/{stem}"))
                    members.setdefault(path, TarMember(tar, entry.offset, entry.size))
    except (DataError, OSError):
        pass
    return members
