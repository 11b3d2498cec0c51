"""Read rendered scenes and videos from their tars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perception_encoder.datasets.class_masks import BACKGROUND, HIGHEST, OBJECT, ClassMasks
from perception_encoder.datasets.masked_videos import MaskedVideo, read_object_mask
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.shards import MASK, json_object, read_members, read_samples, shards_below, split_member
from perception_encoder.preprocess.image import image_file
from perception_encoder.preprocess.source import SHARD_IMAGES, escape_name
from perception_encoder.preprocess.video import read_frames


class StoredScene(NamedTuple):
    """Files of a scene."""

    key: str
    where: str
    """Its tar and key, for errors."""
    image: bytes
    metadata: dict[str, Any]
    mask: bytes = b""
    """A PNG with the object's number at each pixel; empty unless requested."""


def read_scene_tars(tars: Iterable[Path], masks: bool = False) -> Iterator[StoredScene]:
    """Read the scenes of tars in order, with their masks if `masks`.

    Raises DataError for a damaged tar or JSON, and after a tar's last scene for one that lacks a file.
    """
    for tar in tars:
        for key, extension, parts in read_samples(tar, SHARD_IMAGES, ("json", MASK) if masks else ("json",)):
            where = f"{tar}: {key}"
            metadata = json_object(where, parts["json"])
            yield StoredScene(key, where, parts[extension], metadata, parts.get(MASK, b""))


def read_object_splits(path: Path) -> tuple[ClassMasks, ClassMasks]:
    """Read the training and the test set, whose pixels are `background` or `object`; DataError for what is missing."""
    train, test = (_read_objects(path, split) for split in ("train", "test"))
    return train, test.check()


def _read_objects(path: Path, split: str) -> ClassMasks:
    tars = shards_below(path, split)
    if not tars:
        raise DataError(f"{path} has no {split}/*.tar with KEY.mask.png")
    scenes = sorted(read_scene_tars(tars, masks=True), key=lambda item: item.key)
    return ClassMasks(
        name=f"{escape_name(path.name)}/{split}",
        keys=tuple(scene.key for scene in scenes),
        images=tuple(scene.image for scene in scenes),
        masks=tuple(scene.mask for scene in scenes),
        classes=(BACKGROUND, OBJECT),
        numbers={0: 0} | dict.fromkeys(range(1, HIGHEST + 1), 1),
    )


def read_rendered_videos(path: Path) -> list[MaskedVideo]:
    """Read the videos of a directory's tars, KEY.mp4 with KEY.mask.png, the frames' masks below each other.

    DataError if there are none, and for a video without masks or of one frame.
    """
    parts: dict[str, dict[str, bytes]] = {}
    for tar in sorted(path.glob("*.tar")):
        for name, content in read_members(tar, ("mp4", "mask.png")):
            key, extension = split_member(name)
            parts.setdefault(key, {})[extension] = content
    if not parts:
        raise DataError(f"{path} has no *.tar with KEY.mp4 and KEY.mask.png")
    return [_cut_video(key, parts[key]) for key in sorted(parts)]


def _cut_video(name: str, parts: Mapping[str, bytes]) -> MaskedVideo:
    """Split a rendered video and its masks into losslessly stored frames.

    If they cannot be decoded they are kept as they are, and reported when used.
    """
    if "mask.png" not in parts:
        raise DataError(f"{name}: {name}.mask.png is missing")
    try:
        stacked = read_object_mask(parts["mask.png"], f"{name} (mask)", binary=False)
        width, height = read_frames(parts["mp4"], name, 1).images[0].size
        count, rest = divmod(stacked.shape[0], height)
        images = read_frames(parts["mp4"], name, max(1, count)).images
    except InputError:
        return MaskedVideo(name, (parts["mp4"],) * 2, (parts["mask.png"], None))
    if count < 2:
        raise DataError(f"{name}: has {count} frames; tracking needs at least 2")
    if rest or stacked.shape[1] != width:
        raise DataError(f"{name}: masks of {stacked.shape} do not divide into frames of {height}x{width}")
    masks = np.split(stacked, count)
    stored = [image_file(image, "PNG", compress_level=1) for image in (*images, *map(Image.fromarray, masks))]
    return MaskedVideo(name, tuple(stored[: len(images)]), tuple(stored[len(images) :]))
