"""Read images with boxes and masks of their objects, in COCO's, LVIS's or YOLO's format (layouts: `docs/datasets.md`).

Of a set that is cut, images without a box are left out, for it does not say whether anybody looked for some.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from perception_encoder.datasets.class_masks import OBJECT
from perception_encoder.datasets.labelled import ImageSet, Stored
from perception_encoder.datasets.yolo import read_yolo
from perception_encoder.errors import DataError, InputError, needs_extra
from perception_encoder.formats.entries import are_numbers, integer_field, list_objects, quoted, read_json, text_field
from perception_encoder.formats.shards import read_members
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.source import SHARD_IMAGES, escape_name
from perception_encoder.progress import Track

logger = logging.getLogger(__name__)
OBJECTS365 = "zhiyuan_objv2_"
"""Prefix of the names of its annotation files."""
PUBLISHED = ("instances_{}2017.json", "lvis_v1_{}.json", OBJECTS365 + "{}.json")
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

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "images", "records")

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
        every = [item for some in self.annotations.values() for item in some]
        return bool(every) and all(value.get("segmentation") for value in every)

    def size(self, index: int) -> tuple[int, int]:
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
        objects = [item for item in every if not item.get("iscrowd") and min(item["bbox"][2:]) > 0]
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
        ids = {self.records[row]["id"] for row in rows}
        annotations = {image: entries for image, entries in self.annotations.items() if image in ids}
        return replace(super().select(rows), annotations=annotations)

    def seen_classes(self, track: Track) -> set[Any]:
        """Return the ids of the categories with at least one object that is not a crowd."""
        every = [item for some in self.annotations.values() for item in some]
        return {value.get("category_id") for value in every if not value.get("iscrowd")}

    def keep_classes(self, classes: set[Any]) -> InstanceSet:
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
            raise DataError(f"{self.name}: LVIS has no boxes for categories that were not annotated; use COCO")
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
    yolo = path if path.suffix in (".yaml", ".yml") else path / "data.yaml"
    if yolo.is_file():
        return _checked(*(InstanceSet(**split) for split in read_yolo(yolo)))
    if path.suffix == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        train = path.with_name(path.name.replace("val", "train"))
        if train == path:
            raise DataError(f"{path}: give the annotations of val, beside those of train")
        return _checked(read_instances(train, root), read_instances(path, root))
    files = [
        [directory / name.format(split) for split in ("train", "val")]
        for directory in (path / "annotations", path)
        for name in PUBLISHED
        if (directory / name.format("val")).is_file()
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
            f"{path}: no annotations/instances_val2017.json, lvis_v1_val.json, zhiyuan_objv2_val.json, data.yaml, "
            "test/ or annotations.json"
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
    if OBJECTS365 in train.name and [number for number, _ in trained] == [number for number, _ in tested]:
        test, tested = replace(test, categories=train.categories), trained  # its files spell the names differently
    for one, other in zip_longest(trained, tested):
        if one != other:
            raise DataError(f"{train.name} and {test.name} list different categories, first {one} and {other}")
    if train.has_masks != test.has_masks:
        masked = train if train.has_masks else test
        logger.warning("only %s has masks; only boxes are trained and evaluated", masked.name)
    return train, test


def read_instances(file: Path, directory: Path) -> InstanceSet:
    """Read annotations with images in a directory, its subdirectories, or its tar files.

    DataError names the first entry that does not follow COCO's format, or an image that does not exist.
    """
    records, annotations, categories = _check_annotations(read_annotations(file), file)
    split, objects365 = file.stem.rpartition("_")[2].removesuffix("2017"), file.name.startswith(OBJECTS365)
    places = [directory / place for place in ("", split, f"{split}2017", "images", f"images/{split}")]
    packed = {
        name: content for tar in sorted(directory.glob("*.tar")) for name, content in read_members(tar, SHARD_IMAGES)
    }

    def find(key: str) -> Stored | None:
        names = [key, *("/".join(key.split("/")[-parts:]) for parts in (2, 1) if objects365)]
        paths = (place / name for name in names for place in places)
        return packed.get(key) or next((path for path in paths if os.path.isfile(path)), None)

    keys = [file_name(record) for record in records]
    images = [find(key) for key in keys]
    if missing := [key for key, image in zip(keys, images, strict=True) if image is None]:
        raise DataError(f"{file}: {len(missing)} images do not exist, first {quoted(missing[0])}")
    objects = [item for some in annotations.values() for item in some]
    bare = sum(not item.get("segmentation") for item in objects)
    if 0 < bare < len(objects):
        text = "%s: %d of %d annotations have no mask; only boxes are trained and evaluated"
        logger.warning(text, escape_name(file), bare, len(objects))
    if flat := sum(min(item["bbox"][2:]) <= 0 for item in objects):
        logger.warning("%s: %d boxes without area are left out of training", escape_name(file), flat)
    return InstanceSet(
        name=escape_name(f"{directory.name}/{file.stem}"),
        keys=tuple(keys),
        images=tuple(image for image in images if image is not None),
        records=tuple(records),
        annotations=annotations,
        categories=tuple(categories),
    )


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a file's JSON without checks; DataError if it is not an object."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} cannot be read as COCO annotations: it is {quoted(content)}, not an object")
    return content


def read_images(file: Path) -> list[dict[str, Any]]:
    """Read the images that annotations list, by id; DataError for an entry that does not follow COCO's format."""
    return list(_images_by_id(read_annotations(file), file).values())


def _check_annotations(
    content: Mapping[str, Any], file: Path
) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return a file's images by id, annotations by the image's id, and categories by id; DataError for a bad entry.

    Gaps of Objects365 are left out.
    """
    objects365 = file.name.startswith(OBJECTS365)
    images, categories = _images_by_id(content, file), _by_id(content, "categories", file)
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    outside = 0
    for row, item in enumerate(list_objects(content, "annotations", file)):
        where = f"{file}: annotations[{row}]"
        owner, category = integer_field(item, "image_id", where), integer_field(item, "category_id", where)
        if owner not in images or category not in categories:
            raise DataError(f"{where}: image {owner} or category {category} is not in the file")
        where += f" of {file_name(images[owner])[-60:]}"
        size = images[owner]["height"], images[owner]["width"]
        box: Any = item.get("bbox")
        _require(are_numbers(box) and len(box) == 4 and min(box[2:]) >= 0, where, item, "bbox", BOX)
        if min(box[2:]) > 0 and not overlaps_image(box, *size):
            _require(objects365, where, item, "bbox", f"inside the image of {size[1]}x{size[0]} pixels")
            outside += 1
            continue
        _require(item.get("iscrowd", 0) in (0, 1), where, item, "iscrowd", "0 or 1")
        _require(are_numbers([item.get("area", 0)], 0, MAX_PIXELS), where, item, "area", "a number of pixels")
        if item.get("segmentation"):
            _require(_is_mask(item["segmentation"], *size), where, item, "segmentation", MASK)
        objects[owner].append(item)
    if outside:
        logger.warning("%s: boxes outside their image: %d; they are left out", escape_name(file), outside)
    unpublished = {n for n, image in images.items() if objects365 and file_name(image).endswith(UNPUBLISHED)}
    return (
        [images[number] for number in sorted(images) if number not in unpublished],
        {number: items for number, items in objects.items() if number not in unpublished},
        [categories[number] for number in sorted(categories)],
    )


BOX = "[left, top, width, height] in pixels"
MASK = "polygons [x, y, x, y, x, y, …], or run lengths with `counts` and the `size` of the image"


def _require(sound: bool, where: str, item: Mapping[str, Any], name: str, expected: str) -> None:
    if not sound:
        raise DataError(f"{where}: `{name}` is {quoted(item.get(name))}; it must be {expected}")


def _by_id(content: Mapping[str, Any], name: str, file: Path) -> dict[int, dict[str, Any]]:
    entries: dict[int, dict[str, Any]] = {}
    for row, item in enumerate(list_objects(content, name, file)):
        number = integer_field(item, "id", f"{file}: {name}[{row}]")
        if number in entries:
            raise DataError(f"{file}: {name}[{row}]: `id` is {number}, which an earlier entry has already")
        entries[number] = item
    return entries


def file_name(image: Mapping[str, Any]) -> str:
    """Return an image's path below the image directories; in LVIS this is the end of a URL."""
    return str(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]))


def _images_by_id(content: Mapping[str, Any], file: Path) -> dict[int, dict[str, Any]]:
    images = _by_id(content, "images", file)
    for number, image in images.items():
        where = f"{file}: image {number}"
        text_field(image, "file_name" if image.get("file_name") else "coco_url", where)
        width, height = (integer_field(image, side, where, least=1) for side in ("width", "height"))
        if width * height > MAX_PIXELS:
            raise DataError(f"{where}: has {quoted(width)} x {quoted(height)} pixels; the limit is {MAX_PIXELS:,}")
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            _require(are_numbers(image.get(name, [])), where, image, name, "a list of integers")
    return images


def overlaps_image(box: Sequence[float], height: int, width: int) -> bool:
    """Return whether any part of a box lies inside the image."""
    left, top, wide, high = box
    return left < width and top < height and left + wide > 0 and top + high > 0


def _is_mask(value: Any, height: int, width: int) -> bool:
    """Return whether a segmentation can be decoded as COCO's polygons or run lengths of this size."""
    if isinstance(value, list):
        return all(are_numbers(item) and len(item) >= 6 and len(item) % 2 == 0 for item in value)
    counts: Any = value.get("counts") if isinstance(value, dict) and value.get("size") == [height, width] else None
    if not isinstance(counts, str):
        return are_numbers(counts, 0, MAX_PIXELS) and sum(counts) == height * width
    try:
        decode_mask(value, height, width)
    except (ValueError, RuntimeError):
        return False
    return True


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode COCO's polygons or run lengths, plain or compressed, as bool (H, W).

    ValueError or RuntimeError if that fails, MissingExtraError without faster-coco-eval.
    """
    with needs_extra("eval", "faster-coco-eval"):
        from faster_coco_eval.core import mask
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        runs: Any = segmentation
    elif isinstance(segmentation, dict):
        runs = mask.frPyObjects(segmentation, height, width)
    else:
        runs = mask.merge(mask.frPyObjects(segmentation, height, width))
    return np.asarray(mask.decode(runs), dtype=bool)
