"""Images with boxes and masks of their objects, in COCO's format or LVIS's.

    PATH/annotations/instances_{train,val}2017.json  PATH/{train,val}2017/*.jpg        COCO
    PATH/[annotations/]lvis_v1_{train,val}.json  PATH/{train,val}2017/*.jpg            LVIS
    PATH/{train,test}/instances.json  PATH/{train,test}/*.tar                          rendered scenes
    PATH/annotations.json  PATH/*.jpg                                                  one set, cut by three fifths

The file of val may be given in place of the directory, as for a directory with both COCO's annotations and LVIS's. Of a
set that is cut, images without a box are left out, for it does not say whether anybody looked for some.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from perception_encoder.datasets.class_masks import OBJECT
from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.formats.entries import are_numbers, integer_field, list_objects, quoted, text_field
from perception_encoder.formats.shards import read_members
from perception_encoder.preprocess.image import MAX_PIXELS
from perception_encoder.preprocess.media_types import SHARD_IMAGES
from perception_encoder.progress import Track

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instances:
    """The annotated objects of an image, in the image's own pixels; crowds and boxes without area are left out."""

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
    """By the image's id, as they are in the file."""
    categories: tuple[dict[str, Any], ...]
    """Ascending by id."""

    @property
    def lvis(self) -> bool:
        """Whether only some categories were looked for in each image, as in LVIS."""
        return any("neg_category_ids" in record for record in self.records)

    @cached_property
    def has_masks(self) -> bool:
        """Whether every annotation has a mask."""
        every = [each for some in self.annotations.values() for each in some]
        return bool(every) and all(each.get("segmentation") for each in every)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an image."""
        return self.records[index]["height"], self.records[index]["width"]

    def instances(self, index: int, masks: bool = True) -> Instances:
        """Return the objects of an image, with masks or without; DataError for a category that is not in the list."""
        number = {category["id"]: row for row, category in enumerate(self.categories, start=1)}
        objects = [each for each in self.annotations.get(self.records[index]["id"], []) if not each.get("iscrowd")]
        for each in objects:
            if each.get("category_id") not in number:
                raise DataError(f"{self.keys[index]}: annotation {each.get('id')} has no category that is in the list")
        objects = [each for each in objects if _has_area(each)]
        boxes = np.array([each["bbox"] for each in objects], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([number[each["category_id"]] for each in objects], dtype=np.int64)
        if not (masks and self.has_masks):
            return Instances(boxes, labels, None)
        pixels = [_to_mask(each, *self.size(index), self.keys[index]) for each in objects]
        return Instances(boxes, labels, np.array(pixels, dtype=bool).reshape(len(objects), *self.size(index)))

    def truth(self, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Return COCO's JSON of these images, for the evaluation; boxes without area are in it, as in COCO's own."""
        records = [self.records[int(row)] for row in rows]
        annotations = [dict(each) for record in records for each in self.annotations.get(record["id"], [])]
        for number, each in enumerate(annotations, start=1):
            each.update(id=each.get("id", number), iscrowd=each.get("iscrowd", 0))
            each.setdefault("area", each["bbox"][2] * each["bbox"][3])
        return {"images": records, "annotations": annotations, "categories": [dict(each) for each in self.categories]}

    def select(self, rows: Sequence[int]) -> InstanceSet:
        """Return the set of these images, and their annotations."""
        ids = {self.records[row]["id"] for row in rows}
        annotations = {image: own for image, own in self.annotations.items() if image in ids}
        return replace(super().select(rows), annotations=annotations)

    def seen_classes(self, track: Track) -> set[Any]:
        """Return the ids of the categories with an object that is no crowd."""
        every = [each for some in self.annotations.values() for each in some]
        return {each.get("category_id") for each in every if not each.get("iscrowd")}

    def keep_classes(self, classes: set[Any]) -> InstanceSet:
        """Return the set with these categories alone."""
        annotations = {
            image: [each for each in some if each.get("category_id") in classes]
            for image, some in self.annotations.items()
        }
        categories = tuple(category for category in self.categories if category["id"] in classes)
        return replace(self, categories=categories, annotations=annotations)

    def merge_classes(self) -> InstanceSet:
        """Return the same boxes as objects of one category, without masks.

        DataError for LVIS, where an object of a category that was not looked for has no box.
        """
        if self.lvis:
            raise DataError(f"{self.name}: LVIS has no boxes of objects that were not looked for; use COCO or scenes")
        boxes = {
            image: [{**each, "category_id": 1, "segmentation": None} for each in some]
            for image, some in self.annotations.items()
        }
        return replace(self, annotations=boxes, categories=({"id": 1, "name": OBJECT},))

    def check(self) -> InstanceSet:
        """Return the set; DataError if it has no box."""
        if not any(self.annotations.values()):
            raise DataError(f"{self.name}: there is no box; detection needs some to train on and some to find")
        return self


def _has_area(annotation: dict[str, Any]) -> bool:
    return min(annotation["bbox"][2:]) > 0


def _to_mask(annotation: dict[str, Any], height: int, width: int, key: str) -> np.ndarray:
    """Decode COCO's polygons or run lengths, plain or compressed, as bool (H, W); DataError if that fails."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    segmentation = annotation["segmentation"]
    try:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            runs: Any = segmentation
        elif isinstance(segmentation, dict):
            runs = mask.frPyObjects(segmentation, height, width)
        else:
            runs = mask.merge(mask.frPyObjects(segmentation, height, width))
        return np.asarray(mask.decode(runs), dtype=bool)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{key}: the mask of annotation {annotation.get('id')} cannot be decoded: {error}") from error


def read_instance_splits(path: Path) -> tuple[InstanceSet, InstanceSet]:
    """Read the training and the test set: see the module; DataError if annotations are missing or damaged."""
    if path.suffix == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        train = path.with_name(path.name.replace("val", "train"))
        if train == path:
            raise DataError(f"{path}: give the annotations of val, beside those of train")
        return _checked(read_instances(train, root), read_instances(path, root))
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
        return _checked(*(read_instances(each / "instances.json", each) for each in directories))
    whole = path / "annotations.json"
    if not whole.is_file():
        raise DataError(f"{path}: no annotations/instances_val2017.json, lvis_v1_val.json, test/ or annotations.json")
    every = read_instances(whole, path)
    rows = [row for row, record in enumerate(every.records) if every.annotations.get(record["id"])]
    return _checked(*every.select(rows).cut())


def _checked(train: InstanceSet, test: InstanceSet) -> tuple[InstanceSet, InstanceSet]:
    train.check()
    test.check()
    trained, tested = ([(each["id"], each.get("name")) for each in part.categories] for part in (train, test))
    for one, other in zip_longest(trained, tested):
        if one != other:
            raise DataError(f"{train.name} and {test.name} list different categories, first {one} and {other}")
    if train.has_masks != test.has_masks:
        masked = train if train.has_masks else test
        logger.warning("only %s has masks; only boxes are learned and evaluated", masked.name)
    return train, test


def read_instances(file: Path, directory: Path) -> InstanceSet:
    """Read annotations, whose images lie in a directory, in directories in it, or in tar files in it.

    DataError, with the file and the entry, for anything that does not follow COCO's format.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as annotations in COCO's format ({error!r})") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} cannot be read as annotations in COCO's format: it is {quoted(content)}, not an object"
        )
    records = _records(content, file)
    annotations = _annotations(content, records, file)
    categories = list_objects(content, "categories", file)
    for index, category in enumerate(categories):
        integer_field(category, "id", f"{file}: categories[{index}]")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    keys = tuple(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]) for image in records)
    split = file.stem.rpartition("_")[2] if file.stem.startswith(("instances_", "lvis")) else ""
    _warn_of_gaps(file, annotations)
    packed = {
        name: content for tar in sorted(directory.glob("*.tar")) for name, content in read_members(tar, SHARD_IMAGES)
    }
    directories = [directory, directory / split, directory / f"{split}2017", directory / "images"]
    return InstanceSet(
        name=f"{directory.name}/{file.stem}",
        keys=keys,
        images=tuple(packed.get(key) or _find(key, directories) for key in keys),
        records=tuple(records),
        annotations=dict(by_image),
        categories=tuple(sorted(categories, key=lambda category: category["id"])),
    )


def _records(content: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Return the images' entries, ascending by id; DataError for one that lacks a field, or has another type there."""
    images = list_objects(content, "images", file)
    for index, image in enumerate(images):
        where = f"{file}: images[{index}]"
        integer_field(image, "id", where)
        text_field(image, "file_name" if image.get("file_name") or not image.get("coco_url") else "coco_url", where)
        if integer_field(image, "width", where, 1) * integer_field(image, "height", where, 1) > MAX_PIXELS:
            raise DataError(f"{where}: has {image['width']} x {image['height']} pixels; the limit is {MAX_PIXELS:,}")
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            if name in image and not are_numbers(image[name]):
                raise DataError(f"{where}: `{name}` is {quoted(image[name])}; it must be a list of integers")
    return sorted(images, key=lambda image: image["id"])


def _annotations(content: dict[str, Any], records: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Return the annotations; DataError for one with a field of another type, or a mask of another size."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in records}
    annotations = list_objects(content, "annotations", file)
    for index, each in enumerate(annotations):
        where = f"{file}: annotations[{index}]"
        size = sizes.get(integer_field(each, "image_id", where))
        for name in ("id", "category_id"):
            if each.get(name) is not None:
                integer_field(each, name, where)
        if not are_numbers(each.get("bbox")) or len(each["bbox"]) != 4:
            raise DataError(f"{where}: `bbox` is {quoted(each.get('bbox'))}; it must be [left, top, width, height]")
        if each.get("iscrowd", 0) not in (0, 1):
            raise DataError(f"{where}: `iscrowd` is {quoted(each['iscrowd'])}; it must be 0 or 1")
        if not are_numbers([each.get("area", 0)], least=0, most=MAX_PIXELS):
            raise DataError(f"{where}: `area` is {quoted(each['area'])}; it must be a number of pixels")
        if each.get("segmentation") and not _is_segmentation(each["segmentation"], size):
            raise DataError(
                f"{where}: `segmentation` is {quoted(each['segmentation'])}; it must be a list of polygons "
                f"[x, y, x, y, x, y, …], or run lengths with `counts` and the `size` of the image, {size}"
            )
    return annotations


def _is_segmentation(value: Any, size: list[int] | None) -> bool:
    if isinstance(value, dict):
        counts = value.get("counts")
        runs = isinstance(counts, str) or are_numbers(counts, least=0, most=MAX_PIXELS)
        return runs and (size is None or value.get("size") == size)
    if not isinstance(value, list):
        return False
    return all(are_numbers(each) and len(each) >= 6 and len(each) % 2 == 0 for each in value)


def _warn_of_gaps(file: Path, annotations: Sequence[dict[str, Any]]) -> None:
    """Log which annotations lack a box or a mask."""
    empty = [each for each in annotations if not each.get("iscrowd") and not _has_area(each)]
    if empty:
        logger.warning(
            "%s: boxes without area: %d, annotation %s of image %s first; nothing is learned from them, and no "
            "detection can match them",
            *(file, len(empty), empty[0].get("id"), empty[0]["image_id"]),
        )
    bare = [each for each in annotations if not each.get("segmentation")]
    if 0 < len(bare) < len(annotations):
        logger.warning(
            "%s: annotations without a mask: %d of %d, annotation %s of image %s first; only boxes are learned and "
            "evaluated",
            *(file, len(bare), len(annotations), bare[0].get("id"), bare[0]["image_id"]),
        )


def _find(key: str, directories: Sequence[Path]) -> Path:
    """Return the path of an image, or where it should be."""
    return next((each / key for each in directories if os.path.isfile(each / key)), directories[0] / key)
