"""Read rendered scenes from their tars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder.datasets.class_masks import BACKGROUND, HIGHEST, OBJECT, ClassMasks
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import integer_field, list_objects
from perception_encoder.formats.shards import MASK, json_object, read_samples, shards_below
from perception_encoder.preprocess.source import SHARD_IMAGES, escape_name


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
        numbers=tuple({0: 0} | dict.fromkeys(_object_numbers(scene), 1) for scene in scenes),
    )


def _object_numbers(scene: StoredScene) -> list[int]:
    numbers = []
    for index, item in enumerate(list_objects(scene.metadata, "objects", f"{scene.where}.json")):
        where = f"{scene.where}.json: objects[{index}]"
        numbers.append(integer_field(item, "id", where))
        if numbers[-1] > HIGHEST:
            raise DataError(f"{where}: `id` is {numbers[-1]}; a mask holds numbers up to {HIGHEST}")
    return numbers
