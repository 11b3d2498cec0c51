"""Read the tars of rendered scenes: KEY.jpg, KEY.json with what the scene holds, and KEY.mask.png."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import read_members, split_member
from perception_encoder.preprocess.media_types import SHARD_IMAGES

MASK = "mask.png"


class StoredScene(NamedTuple):
    """A scene's files."""

    key: str
    where: str
    """Its tar and key, as errors name it."""
    image: bytes
    metadata: dict[str, Any]
    mask: bytes = b""
    """A PNG with the number of the object at each pixel; empty unless it was asked for."""


def read_scene_tars(tars: Iterable[Path], masks: bool = False) -> Iterator[StoredScene]:
    """Read the scenes of tars in order, with their masks if `masks`.

    Raises DataError for a damaged tar or JSON, and after the last scene for one that lacks a file.
    """
    extensions = ("json", *SHARD_IMAGES, *((MASK,) if masks else ()))
    for tar in tars:
        waiting: dict[str, dict[str, bytes]] = {}
        for name, content in read_members(tar, extensions):
            key, extension = split_member(name)
            parts = waiting.setdefault(key, {})
            parts[extension if extension in ("json", MASK) else "image"] = content
            if len(parts) == 2 + masks:
                where = f"{tar}: {key}"
                yield StoredScene(key, where, parts["image"], _object(where, parts["json"]), parts.get(MASK, b""))
                del waiting[key]
        if waiting:
            lacking = "an image, a mask or a .json" if masks else "an image or a .json"
            raise DataError(f"{tar}: {len(waiting)} samples lack {lacking}; the first is {next(iter(waiting))}")


def _object(where: str, text: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}.json is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}.json is not a JSON object")
    return value
