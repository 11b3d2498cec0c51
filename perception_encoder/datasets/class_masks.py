"""Pictures with the class of each pixel: rendered scenes, and folders in the manner of ADE20K.

    PLACE/train/*.tar  PLACE/test/*.tar: KEY.jpg, KEY.mask.png (numbers of things) and KEY.json (`objects`)   scenes
    PLACE/images/training/KEY.jpg  PLACE/annotations/training/KEY.png, and the same of validation             ADE20K

In scenes a pixel has the kind of its thing, and what is no thing is the class `background`. In ADE20K's masks 0 is not
scored and the classes begin with 1; `objectInfo150.txt` names them where it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from perception_encoder.datasets.masked_videos import Stored, read_object_mask
from perception_encoder.datasets.rgbd import split_places
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import integer_field, list_objects, read_lines, text_field
from perception_encoder.formats.shards import read_members, split_member
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.media_types import SHARD_IMAGES
from perception_encoder.progress import Track, untracked

UNSCORED = -1
HIGHEST = 255
"""Number that a mask can hold."""
BACKGROUND, THING = "background", "thing"


@dataclass(frozen=True, kw_only=True)
class ClassMasks:
    """Pictures and masks, as stored, and what the numbers in each mask stand for."""

    name: str
    keys: tuple[str, ...]
    pictures: tuple[Stored, ...]
    masks: tuple[Stored, ...]
    classes: tuple[str, ...]
    numbers: tuple[dict[int, int], ...]
    """Of each mask: its values to places in `classes`, or to `UNSCORED`."""

    def open(self, place: int) -> Image.Image:
        """The picture at a place, RGB; InputError for one that cannot be decoded."""
        return open_image(self.pictures[place], self.keys[place]).convert("RGB")

    def labels(self, place: int) -> Int[np.ndarray, "H W"]:
        """Each pixel's place in `classes`, int16, `UNSCORED` where it counts for nothing.

        Raises MediaDecodeError where the mask cannot be decoded, and DataError for a number that stands for nothing.
        """
        name = f"{self.keys[place]} (mask)"
        mask, known = read_object_mask(self.masks[place], name, binary=False), self.numbers[place]
        if foreign := set(np.unique(mask).tolist()) - known.keys():
            raise DataError(f"{name}: {min(foreign)} is in the mask, but not among what it may show ({len(known)})")
        table = np.full(256, UNSCORED, np.int16)
        for value, number in known.items():
            table[value] = number
        return table[mask]

    def some(self, rows: Sequence[int]) -> ClassMasks:
        """A part of them."""
        of = {name: getattr(self, name) for name in ("keys", "pictures", "masks", "numbers")}
        parts: dict[str, Any] = {name: tuple(every[row] for row in rows) for name, every in of.items()}
        return replace(self, **parts)


def read_class_splits(place: Path) -> tuple[ClassMasks, ClassMasks]:
    """What is trained on and what is measured: see the module. The classes of both are those of the training split.

    In scenes, pixels of a class that is not trained on are not scored; see `keep_trained` for all others. DataError
    where a split, a mask or a class is missing, and where the measured pictures show nothing that is trained on.
    """
    if (place / "annotations").is_dir():
        return _read_ade(place, "training"), _read_ade(place, "validation")
    found = {split: list(_read_scenes(place, split)) for split in ("train", "test")}
    kinds = sorted({thing["kind"] for *_, things in found["train"] for thing in things} - {BACKGROUND})
    if not kinds:
        raise DataError(f"{place}: the training pictures show no thing; one class alone cannot be told from others")
    numbers = {kind: number for number, kind in enumerate((BACKGROUND, *kinds))}
    train, test = (_to_masks(f"{place.name}/{split}", rows, numbers) for split, rows in found.items())
    _check_shared(test)
    return train, test


def read_things(place: Path) -> tuple[ClassMasks, ClassMasks]:
    """Rendered scenes to train on and to measure, with two classes alone: `background`, and `thing` of any kind.

    DataError where a split or a mask is missing, and where no measured picture shows a thing.
    """
    numbers, parts = {BACKGROUND: 0, THING: 1}, []
    for split in ("train", "test"):
        rows = [
            (key, picture, mask, [{**thing, "kind": THING} for thing in some])
            for key, picture, mask, some in _read_scenes(place, split)
        ]
        parts.append(_to_masks(f"{place.name}/{split}", rows, numbers))
    _check_shared(parts[1])
    return parts[0], parts[1]


def keep_trained(train: ClassMasks, test: ClassMasks, track: Track = untracked) -> tuple[ClassMasks, ClassMasks]:
    """Both with those classes alone that a pixel of `train` shows: pixels of others are not scored.

    Pictures may have been left out, or their masks be damaged; a mask that cannot be decoded shows nothing. DataError
    where the measured pictures show nothing that is trained on.
    """
    seen: set[int] = set()
    for place in track(range(len(train.keys)), f"reading the classes of {train.name}", len(train.keys)):
        try:
            seen |= set(np.unique(train.labels(place)).tolist()) - {UNSCORED}
        except InputError:  # it is reported when it is used
            continue
    if not seen or len(seen) == len(train.classes):
        return train, test
    order = {old: new for new, old in enumerate(sorted(seen))}
    kept = [
        replace(
            part,
            classes=tuple(part.classes[old] for old in order),
            numbers=tuple({value: order.get(old, UNSCORED) for value, old in some.items()} for some in part.numbers),
        )
        for part in (train, test)
    ]
    _check_shared(kept[1])
    return kept[0], kept[1]


def _check_shared(test: ClassMasks) -> None:
    """DataError where no pixel of the measured pictures can be of any class but the background."""
    things = {number for number, kind in enumerate(test.classes) if kind != BACKGROUND}
    if not any(number in things for meanings in test.numbers for number in meanings.values()):
        raise DataError(
            f"{test.name}: no thing is of a kind that the training pictures show; take scenes of more models (--models)"
        )


def _to_masks(
    name: str, rows: list[tuple[str, Stored, Stored, list[dict[str, Any]]]], numbers: dict[str, int]
) -> ClassMasks:
    keys, pictures, masks, things = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    meanings = tuple(
        {0: 0, **{int(thing["id"]): numbers.get(thing["kind"], UNSCORED) for thing in some}} for some in things
    )
    return ClassMasks(name=name, keys=keys, pictures=pictures, masks=masks, classes=tuple(numbers), numbers=meanings)


def _read_scenes(place: Path, split: str) -> Iterator[tuple[str, Stored, Stored, list[dict[str, Any]]]]:
    tars = [path for path in split_places(place, split) if path.is_file()]
    if not tars:
        raise DataError(f"{place}: no annotations/ and no {split}/*.tar with KEY.mask.png")
    waiting: dict[str, dict[str, bytes]] = {}
    for path in tars:
        for name, content in read_members(path, ("json", "mask.png", *SHARD_IMAGES)):
            key, extension = split_member(name)
            parts = waiting.setdefault(key, {})
            parts[extension if extension in ("json", "mask.png") else "picture"] = content
            if len(parts) == 3:
                yield key, parts["picture"], parts["mask.png"], _things(parts["json"], f"{path}: {key}")
                del waiting[key]
    if waiting:
        key = next(iter(waiting))
        raise DataError(f"{place}: {len(waiting)} samples lack a picture, a mask or a .json; the first is {key}")


def _things(text: bytes, name: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}.json is not JSON ({error!r})") from error
    if not isinstance(content, dict):
        raise DataError(f"{name}.json is no JSON object with `objects`, each with an `id` and a `kind`")
    things = []
    for place, thing in enumerate(list_objects(content, "objects", f"{name}.json")):
        where = f"{name}.json: objects[{place}]"
        things.append({"id": integer_field(thing, "id", where), "kind": text_field(thing, "kind", where)})
        if thing["id"] > HIGHEST:
            raise DataError(f"{where}: `id` is {thing['id']}; a mask holds numbers up to {HIGHEST}")
    return things


def _read_ade(root: Path, split: str) -> ClassMasks:
    masks = {path.stem: path for path in sorted((root / "annotations" / split).glob("*.png"))}
    pictures = {path.stem: path for path in sorted((root / "images" / split).glob("*.jpg"))}
    if not masks:
        raise DataError(f"{root}: no annotations/{split}/*.png")
    if lacking := sorted(masks.keys() ^ pictures.keys()):
        raise DataError(f"{root}: {lacking[0]} of {split} lacks its picture or its mask; {len(lacking)} do")
    listed = root / "objectInfo150.txt"
    if listed.is_file():
        lines = read_lines(listed)[1:]
        names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())
        if not 0 < len(names) <= HIGHEST:
            raise DataError(f"{listed} names {len(names)} classes; a mask holds 1 to {HIGHEST}")
    else:
        names = tuple(f"class {number}" for number in range(1, 151))
    numbers = {0: UNSCORED, **{number: number - 1 for number in range(1, len(names) + 1)}}
    keys = tuple(masks)
    return ClassMasks(
        name=f"{root.name}/{split}",
        keys=keys,
        pictures=tuple(pictures[key] for key in keys),
        masks=tuple(masks.values()),
        classes=names,
        numbers=(numbers,) * len(keys),
    )
