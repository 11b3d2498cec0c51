"""Read images with boxes and masks of their objects, in COCO's or LVIS's format.

    PATH/annotations/instances_{train,val}2017.json  PATH/{train,val}2017/*.jpg        COCO
    PATH/[annotations/]lvis_v1_{train,val}.json  PATH/{train,val}2017/*.jpg            LVIS
    PATH/[annotations/]zhiyuan_objv2_{train,val}.json  PATH/{train,val}/patch*/*.jpg   Objects365
    PATH/{train,test}/instances.json  PATH/{train,test}/*.tar                          rendered scenes
    PATH/annotations.json  PATH/*.jpg                                                  one set, cut by three fifths

The file of val may be given in place of the directory, as for a directory with both COCO's annotations and LVIS's. Of a
set that is cut, images without a box are left out, for it does not say whether anybody looked for some.

Objects365 v2 as it is published: boxes of 365 classes, in COCO's format, and images in numbered directories.

    PATH/annotations/zhiyuan_objv2_{train,val}.json    or beside the images, PATH/{train,val}/zhiyuan_objv2_….json
    PATH/{train,val}/patch8/objects365_v1_00420917.jpg
    PATH/{train,val}/images/v1/patch8/…                as some of its archives unpack
    PATH/images/{train,val}/patch8/…                   or without the directory, as other libraries arrange it

The annotations call this image `images/v1/patch8/objects365_v1_00420917.jpg`; it is looked for under the ends of that
name. Three images that are listed were never published, and are left out, as are boxes that lie outside their image.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from perception_encoder.datasets.class_masks import OBJECT
from perception_encoder.datasets.coco_annotations import (
    Problems,
    check_annotations,
    decode_mask,
    has_area,
    overlaps_image,
    read_annotations,
    warn_of_gaps,
)
from perception_encoder.datasets.image_set import ImageSet, Stored
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import are_numbers, quoted
from perception_encoder.formats.shards import read_members
from perception_encoder.preprocess.source import SHARD_IMAGES, escape_name
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)
OBJECTS365 = "zhiyuan_objv2_"
"""Prefix of the names of its annotation files."""
UNPUBLISHED = ("objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg", "objects365_v2_00908726.jpg")


@dataclass(frozen=True)
class Instances:
    """The annotated objects of an image in its pixels, without crowds or boxes without area."""

    boxes: np.ndarray
    """(m, 4) float32: left, top, right, bottom."""
    labels: np.ndarray
    """(m,) int64: 1 is the first of the set's categories."""
    masks: np.ndarray | None
    """(m, H, W) bool; None if the set has no masks."""


@dataclass(frozen=True, kw_only=True)
class InstanceSet(ImageSet):
    """Annotated images; their keys are file names."""

    per_item: ClassVar[tuple[str, ...]] = ("keys", "images", "records")

    records: tuple[dict[str, Any], ...]
    """The images' entries in the annotations: `id`, `width`, `height` and so on."""
    annotations: dict[int, list[dict[str, Any]]]
    """The file's annotations, by image id."""
    categories: tuple[dict[str, Any], ...]
    """Sorted by id."""

    @property
    def lvis(self) -> bool:
        """Whether only some categories were annotated in each image, as in LVIS."""
        return any("neg_category_ids" in record for record in self.records)

    @cached_property
    def has_masks(self) -> bool:
        """Whether every annotation has a mask."""
        every = [item for some in self.annotations.values() for item in some]
        return bool(every) and all(value.get("segmentation") for value in every)

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width of an image."""
        return self.records[index]["height"], self.records[index]["width"]

    def open(self, index: int) -> Image.Image:
        """Open an image, RGB; InputError if it cannot be decoded or its size is not that of its annotations."""
        image, (height, width) = super().open(index), self.size(index)
        if image.size != (width, height):
            size = f"{image.width}x{image.height}"
            raise InputError(self.keys[index], f"is {size} pixels, but its annotations are for {width}x{height}")
        return image

    def instances(self, index: int, masks: bool = True) -> Instances:
        """Return the objects of an image, with or without masks; boxes are clipped at its edges."""
        number = {category["id"]: row for row, category in enumerate(self.categories, start=1)}
        height, width = self.size(index)
        every = self.annotations.get(self.records[index]["id"], [])
        objects = [item for item in every if not item.get("iscrowd") and has_area(item)]
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
        labels = np.array([number[value["category_id"]] for value in objects], dtype=np.int64)
        if not (masks and self.has_masks):
            return Instances(boxes, labels, None)
        pixels = [decode_mask(item["segmentation"], height, width) for item in objects]
        return Instances(boxes, labels, np.array(pixels, dtype=bool).reshape(len(objects), height, width))

    def truth(self, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return COCO's JSON of these images for evaluation, including boxes without area, as in COCO's files."""
        records = [self.records[int(row)] for row in rows]
        annotations = [dict(value) for record in records for value in self.annotations.get(record["id"], [])]
        for number, item in enumerate(annotations, start=1):
            item.update(id=number, iscrowd=item.get("iscrowd", 0))
            item.setdefault("area", item["bbox"][2] * item["bbox"][3])
        return {
            "images": records,
            "annotations": annotations,
            "categories": [dict(category) for category in self.categories],
        }

    def select(self, rows: Sequence[int]) -> InstanceSet:
        """Return the set of these images with their annotations."""
        ids = {self.records[row]["id"] for row in rows}
        annotations = {image: entries for image, entries in self.annotations.items() if image in ids}
        return replace(super().select(rows), annotations=annotations)

    def seen_classes(self, track: Track) -> set[Any]:
        """Return the ids of the categories with at least one object that is not a crowd."""
        every = [item for some in self.annotations.values() for item in some]
        return {value.get("category_id") for value in every if not value.get("iscrowd")}

    def keep_classes(self, classes: set[Any]) -> InstanceSet:
        """Return the set with only these categories."""
        annotations = {
            image: [item for item in some if item.get("category_id") in classes]
            for image, some in self.annotations.items()
        }
        categories = tuple(category for category in self.categories if category["id"] in classes)
        return replace(self, categories=categories, annotations=annotations)

    def merge_classes(self) -> InstanceSet:
        """Return the same boxes as objects of one category, without masks.

        DataError for LVIS, where objects of categories that were not annotated have no box.
        """
        if self.lvis:
            raise DataError(
                f"{self.name}: LVIS has no boxes for categories that were not annotated; use COCO or scenes"
            )
        boxes = {
            image: [{**item, "category_id": 1, "segmentation": None} for item in some]
            for image, some in self.annotations.items()
        }
        return replace(self, annotations=boxes, categories=({"id": 1, "name": OBJECT},))

    def check(self) -> InstanceSet:
        """Return the set; DataError if it has no boxes."""
        if not any(self.annotations.values()):
            raise DataError(f"{self.name} has no boxes; detection needs boxes for training and evaluation")
        return self


def read_instance_splits(path: Path) -> tuple[InstanceSet, InstanceSet]:
    """Read the training and the test set: see the module; DataError if annotations are missing or damaged."""
    if path.suffix == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        train = path.with_name(path.name.replace("val", "train"))
        if train == path:
            raise DataError(f"{path}: give the annotations of val, beside those of train")
        if path.name.startswith(OBJECTS365):
            return _read_objects365(root, {"train": train, "val": path})
        return _checked(read_instances(train, root), read_instances(path, root))
    if published := objects365_files(path):
        return _read_objects365(path, published)
    files = [
        [directory / stem.format(split) for split in ("train", "val")]
        for directory in (path / "annotations", path)
        for stem in ("instances_{}2017.json", "lvis_v1_{}.json")
        if (directory / stem.format("val")).is_file()
    ]
    if len(files) > 1:
        raise DataError(f"{path} has several annotations; give one of {', '.join(str(val) for _, val in files)}")
    if files:
        return _checked(*(read_instances(file, path) for file in files[0]))
    if (path / "test" / "instances.json").is_file():
        directories = (path / split for split in ("train", "test"))
        return _checked(*(read_instances(item / "instances.json", item) for item in directories))
    whole = path / "annotations.json"
    if not whole.is_file():
        raise DataError(
            f"{path}: no annotations/instances_val2017.json, lvis_v1_val.json, zhiyuan_objv2_val.json, test/ or "
            "annotations.json"
        )
    every = read_instances(whole, path)
    rows = [row for row, record in enumerate(every.records) if every.annotations.get(record["id"])]
    return _checked(*every.select(rows).cut())


def _checked(train: InstanceSet, test: InstanceSet) -> tuple[InstanceSet, InstanceSet]:
    train.check()
    test.check()
    trained, tested = (
        [(category["id"], category.get("name")) for category in part.categories] for part in (train, test)
    )
    for one, other in zip_longest(trained, tested):
        if one != other:
            raise DataError(f"{train.name} and {test.name} list different categories, first {one} and {other}")
    if train.has_masks != test.has_masks:
        masked = train if train.has_masks else test
        logger.warning("only %s has masks; only boxes are trained and evaluated", masked.name)
    _warn_of_classes(train, test)
    return train, test


def _warn_of_classes(train: InstanceSet, test: InstanceSet) -> None:
    """Log the classes of each set that have no object in the other."""
    names = {category["id"]: category.get("name", category["id"]) for category in train.categories}
    trained, tested = train.seen_classes(untracked), test.seen_classes(untracked)
    if untrained := sorted(tested - trained):
        text = "%s: classes without a training example: %d, %r first; their objects can only be missed"
        logger.warning(text, test.name, len(untrained), names[untrained[0]])
    if untested := sorted(trained - tested):
        text = "%s: classes without a test object: %d, %r first; they are not scored"
        logger.info(text, test.name, len(untested), names[untested[0]])


def _read_objects365(path: Path, files: Mapping[str, Path]) -> tuple[InstanceSet, InstanceSet]:
    """Read Objects365 with the training set's class names, as the files spell them differently."""
    train, test = (
        instance_set(
            without_gaps(read_annotations(file), str(file)),
            Problems(file),
            escape_name(f"{path.name}/{file.stem}"),
            image_finder(path, split),
        )
        for split, file in files.items()
    )
    if [category["id"] for category in train.categories] == [item["id"] for item in test.categories]:
        test = replace(test, categories=train.categories)
    return _checked(train, test)


def read_instances(file: Path, directory: Path) -> InstanceSet:
    """Read annotations with images in a directory, its subdirectories, or its tar files.

    DataError that lists what does not follow COCO's format, and the images that do not exist.
    """
    split = file.stem.rpartition("_")[2] if file.stem.startswith(("instances_", "lvis")) else ""
    directories = [directory, directory / split, directory / f"{split}2017", directory / "images"]
    packed = {
        name: content for tar in sorted(directory.glob("*.tar")) for name, content in read_members(tar, SHARD_IMAGES)
    }
    return instance_set(
        read_annotations(file),
        Problems(file),
        escape_name(f"{directory.name}/{file.stem}"),
        lambda key: packed[key] if key in packed else _find(key, directories),
    )


def instance_set(
    content: Mapping[str, Any], problems: Problems, name: str, find: Callable[[str], Stored | None]
) -> InstanceSet:
    """Check annotations and find their images; `find` returns an image by file name, or None.

    DataError that lists all problems.
    """
    checked = check_annotations(content, problems)
    images = [find(key) for key in checked.keys]
    for key, image in zip(checked.keys, images, strict=True):
        if image is None:
            problems.add(f"the image {quoted(key)} does not exist")
    problems.check()
    warn_of_gaps(problems.file, checked)
    return InstanceSet(
        name=name,
        keys=checked.keys,
        images=tuple(image for image in images if image is not None),
        records=checked.records,
        annotations=checked.objects,
        categories=checked.categories,
    )


def _find(key: str, directories: Sequence[Path]) -> Path | None:
    return next((directory / key for directory in directories if os.path.isfile(directory / key)), None)


def objects365_files(path: Path) -> dict[str, Path]:
    """Return the annotations of train and val below a directory; empty if it does not have both."""
    for directory in ("annotations", "{}", ""):
        files = {split: path / directory.format(split) / f"{OBJECTS365}{split}.json" for split in ("train", "val")}
        if all(file.is_file() for file in files.values()):
            return files
    return {}


def without_gaps(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return annotations without unpublished images and without boxes outside their image; log the latter.

    `name`: of the file. What is damaged otherwise stays, for the check that follows.
    """
    images, objects = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(objects, list):
        return dict(content)
    missing = [
        image for image in images if isinstance(image, dict) and str(image.get("file_name")).endswith(UNPUBLISHED)
    ]
    left_out = {_key(item.get("id")) for item in missing}
    sizes = {
        _key(value.get("id")): (value.get("height"), value.get("width")) for value in images if isinstance(value, dict)
    }
    rest = [item for item in objects if not isinstance(item, dict) or _key(item.get("image_id")) not in left_out]
    inside = [entry for entry in rest if not _is_outside(entry, sizes)]
    if len(inside) < len(rest):
        logger.warning("%s: boxes outside their image: %d; they are left out", name, len(rest) - len(inside))
    published = [image for image in images if image not in missing] if missing else images
    return {**content, "images": published, "annotations": inside}


def _key(value: Any) -> Any:
    """Return a hashable form of an id."""
    return value if isinstance(value, int | str) else None


def _is_outside(annotation: Any, sizes: Mapping[Any, tuple[Any, Any]]) -> bool:
    if not isinstance(annotation, dict):
        return False
    box: Any = annotation.get("bbox")
    size = sizes.get(_key(annotation.get("image_id")))
    if size is None or not are_numbers(box) or len(box) != 4 or min(box[2:]) < 0 or not are_numbers(list(size)):
        return False
    return not overlaps_image(box, *size)


def image_finder(path: Path, split: str) -> Callable[[str], Path | None]:
    """Return a function from an image's name in the annotations to its path, or None if it does not exist."""
    directories = (path / split, path / "images" / split, path / "images", path)
    ways = [(directory, parts) for directory in directories for parts in (2, 4, 3, 1)]

    def find(key: str) -> Path | None:
        for number, (directory, parts) in enumerate(ways):
            image = directory / "/".join(key.split("/")[-parts:])
            if os.path.isfile(image):
                ways.insert(0, ways.pop(number))  # the others are very likely arranged alike
                return image
        return None

    return find
