"""Read images with the class of each pixel: images/ with masks/, and ADE20K (`docs/datasets.md`).

In custom masks a number is a class, and 255 is not scored; masks of 0 and 255 alone are of an object on a background.
In ADE20K 0 is not scored and classes begin with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from perception_encoder.datasets.labelled import ImageSet, Stored
from perception_encoder.datasets.masked_videos import read_object_mask
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import read_lines
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, escape_name
from perception_encoder.progress import Track

UNSCORED = -1
HIGHEST = 255
BACKGROUND, OBJECT = "background", "object"


@dataclass(frozen=True, kw_only=True)
class ClassMasks(ImageSet):
    """Stored images and masks."""

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "images", "masks")

    masks: tuple[Stored, ...]
    classes: tuple[str, ...]
    numbers: dict[int, int]
    """Map from the values in masks to indices of `classes`, or to `UNSCORED`."""

    def labels(self, index: int) -> Int[np.ndarray, "H W"]:
        """Decode the class of each pixel, an index of `classes`, int16, or `UNSCORED`.

        Raises MediaDecodeError if the mask cannot be decoded, and DataError for a number without a class.
        """
        name = f"{self.keys[index]} (mask)"
        mask = read_object_mask(self.masks[index], name, binary=False)
        if foreign := set(np.unique(mask).tolist()) - self.numbers.keys():
            raise DataError(f"{self.name}: {name}: the value {min(foreign)} is not a class's")
        table = np.full(256, UNSCORED, np.int16)
        for value, number in self.numbers.items():
            table[value] = number
        return table[mask]

    def seen_classes(self, track: Track) -> set[Any]:
        """Return the classes in its pixels; undecodable masks are ignored here and reported when used.

        All, if it shows none at all.
        """
        seen: set[int] = set()
        for index in track(range(len(self.keys)), f"reading the classes of {self.name}", len(self.keys)):
            try:
                seen |= set(np.unique(self.labels(index)).tolist()) - {UNSCORED}
            except InputError:
                continue
        return seen or set(range(len(self.classes)))

    def keep_classes(self, classes: set[Any]) -> ClassMasks:
        """Return the set with pixels of other classes unscored."""
        if len(classes) == len(self.classes):
            return self
        order = {old: new for new, old in enumerate(sorted(classes))}
        return replace(
            self,
            classes=tuple(self.classes[old] for old in order),
            numbers={value: order.get(old, UNSCORED) for value, old in self.numbers.items()},
        )

    def check(self) -> ClassMasks:
        """Return the set; DataError if no pixel can have a class besides the background."""
        objects = {number for number, name in enumerate(self.classes) if name != BACKGROUND}
        if not objects & set(self.numbers.values()):
            raise DataError(f"{self.name}: no object has a class that the training images show")
        return self


def read_class_splits(path: Path) -> tuple[ClassMasks, ClassMasks]:
    """Read the training and the test set: see the module. Both have the training set's classes.

    DataError if a split or a mask is missing; see `keep_trained` for classes of ADE20K that are not trained on.
    """
    if (path / "masks").is_dir():
        return _read_directories(path, [path])[0].cut()
    if (path / "train" / "masks").is_dir():
        other = next((path / name for name in ("test", "val") if (path / name / "masks").is_dir()), path / "test")
        train, test = _read_directories(path, [path / "train", other])
        return train, test
    if (path / "annotations").is_dir():
        return _read_ade(path, "training"), _read_ade(path, "validation")
    raise DataError(f"{path} has no masks/, train/masks/ or annotations/")


def _read_directories(root: Path, places: Sequence[Path]) -> list[ClassMasks]:
    """Read images and masks from directories that share their classes."""
    pairs = [_pair_files(place / "images", place / "masks") for place in places]
    values: set[int] = set()
    for masks, _ in pairs:
        for key, mask in masks.items():
            values |= set(np.unique(read_object_mask(mask, f"{key} (mask)", binary=False)).tolist())
    binary = values == {0, HIGHEST}
    names_file = root / "classes.txt"
    if names_file.is_file():
        names = tuple(line.strip() for line in read_lines(names_file) if line.strip())
    elif binary:
        names = BACKGROUND, OBJECT
    else:
        names = (BACKGROUND, *(f"class {number}" for number in range(1, 1 + max(values - {HIGHEST}, default=0))))
    numbers = {number: number for number in range(min(len(names), HIGHEST))} | {HIGHEST: 1 if binary else UNSCORED}
    if wrong := values - numbers.keys():
        raise DataError(f"{root}: a mask holds {min(wrong)}; {names_file.name} names {len(names)} classes, from 0")
    if len(names) < 2:
        raise DataError(f"{root}: the masks show only one class; at least two are needed, such as 0 and 1")
    return [
        _of_files(escape_name("/".join(place.parts[-1 if place == root else -2 :])), *files, names, numbers)
        for place, files in zip(places, pairs, strict=True)
    ]


def _of_files(
    name: str, masks: dict[str, Path], images: dict[str, Path], classes: tuple[str, ...], numbers: dict[int, int]
) -> ClassMasks:
    return ClassMasks(
        name=name,
        keys=tuple(map(escape_name, masks)),
        images=tuple(images[key] for key in masks),
        masks=tuple(masks.values()),
        classes=classes,
        numbers=numbers,
    )


def _pair_files(images: Path, masks: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the masks and the images below two directories, by path without suffix."""
    found = []
    for place, suffixes in ((masks, {".png"}), (images, IMAGE_SUFFIXES)):
        paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
        found.append({item.relative_to(place).with_suffix("").as_posix(): item for item in paths})
    if not found[0]:
        raise DataError(f"{masks} has no *.png")
    if lacking := sorted(found[0].keys() ^ found[1].keys()):
        raise DataError(f"{masks}: {lacking[0]} lacks its image or its mask ({len(lacking)} in total)")
    return found[0], found[1]


def _read_ade(root: Path, split: str) -> ClassMasks:
    masks, images = _pair_files(root / "images" / split, root / "annotations" / split)
    names_file = root / "objectInfo150.txt"
    names = tuple(f"class {number}" for number in range(1, 151))
    if names_file.is_file():
        lines = read_lines(names_file)[1:]
        names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())
        if not 0 < len(names) <= HIGHEST:
            raise DataError(f"{names_file} names {len(names)} classes; a mask holds 1 to {HIGHEST}")
    numbers = {0: UNSCORED, **{number: number - 1 for number in range(1, len(names) + 1)}}
    return _of_files(f"{escape_name(root.name)}/{split}", masks, images, names, numbers)
