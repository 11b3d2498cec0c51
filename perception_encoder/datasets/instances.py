"""Pictures with boxes and masks of the things in them, in COCO's format or LVIS's.

    PLACE/annotations/instances_{train,val}2017.json  PLACE/{train,val}2017/*.jpg        COCO
    PLACE/[annotations/]lvis_v1_{train,val}.json  PLACE/{train,val}2017/*.jpg            LVIS
    PLACE/{train,test}/instances.json  PLACE/{train,test}/*.tar                          rendered scenes
    PLACE/annotations.json  PLACE/*.jpg                                                  one set, cut by three fifths

The file of val may be given in place of the folder, as where a folder has COCO's annotations and LVIS's. Of a set that
is cut, pictures without a box are left out, for it does not say whether anybody looked for some.
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
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.datasets.class_masks import THING
from perception_encoder.datasets.masked_videos import Stored
from perception_encoder.datasets.rgbd import TRAINED
from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.formats.entries import are_numbers, integer_field, list_objects, quoted, text_field
from perception_encoder.formats.shards import read_members
from perception_encoder.preprocess.image import MAX_PIXELS, open_image
from perception_encoder.preprocess.media_types import SHARD_IMAGES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Things:
    """What is annotated in a picture, in the picture's own pixels; crowds and boxes without area are left out."""

    boxes: np.ndarray
    """(m, 4) float32: left, top, right, bottom."""
    labels: np.ndarray
    """(m,) int64: 1 is the first of the set's categories."""
    masks: np.ndarray | None
    """(m, H, W) bool; None where the set has no masks."""


@dataclass(frozen=True, kw_only=True)
class InstanceSet:
    """Annotated pictures."""

    name: str
    images: tuple[dict[str, Any], ...]
    """As the annotations have them: `id`, `width`, `height` and so on."""
    keys: tuple[str, ...]
    """File names."""
    pictures: tuple[Stored, ...]
    annotations: dict[int, list[dict[str, Any]]]
    """By the image's id, as they are in the file."""
    categories: tuple[dict[str, Any], ...]
    """Ascending by id."""

    @property
    def lvis(self) -> bool:
        """Whether only some categories were looked for in each picture, as in LVIS."""
        return any("neg_category_ids" in image for image in self.images)

    @cached_property
    def has_masks(self) -> bool:
        """Whether every annotation has a mask."""
        every = [each for some in self.annotations.values() for each in some]
        return bool(every) and all(each.get("segmentation") for each in every)

    def open(self, place: int) -> Image.Image:
        """The picture at a place, RGB; InputError for one that cannot be decoded or is not there."""
        return open_image(self.pictures[place], self.keys[place]).convert("RGB")

    def size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture at a place."""
        return self.images[place]["height"], self.images[place]["width"]

    def things(self, place: int, masks: bool = True) -> Things:
        """What is annotated in the picture at a place, with masks or without.

        DataError for a category that is not in the list.
        """
        image = self.images[place]
        number = {category["id"]: row for row, category in enumerate(self.categories, start=1)}
        things = [each for each in self.annotations.get(image["id"], []) if not each.get("iscrowd")]
        for each in things:
            if each.get("category_id") not in number:
                raise DataError(f"{self.keys[place]}: annotation {each.get('id')} has no category that is in the list")
        kept = [each for each in things if _has_area(each)]
        boxes = np.array([each["bbox"] for each in kept], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([number[each["category_id"]] for each in kept], dtype=np.int64)
        if not (masks and self.has_masks):
            return Things(boxes, labels, None)
        pixels = [_to_mask(each, *self.size(place), self.keys[place]) for each in kept]
        return Things(boxes, labels, np.array(pixels, dtype=bool).reshape(len(kept), *self.size(place)))

    def truth(self, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """COCO's json of some of the pictures, for the evaluation; boxes without area are in it, as in COCO's own."""
        images = [self.images[int(row)] for row in rows]
        annotations = [dict(each) for image in images for each in self.annotations.get(image["id"], [])]
        for number, each in enumerate(annotations, start=1):
            each.update(id=each.get("id", number), iscrowd=each.get("iscrowd", 0))
            each.setdefault("area", each["bbox"][2] * each["bbox"][3])
        return {"images": images, "annotations": annotations, "categories": [dict(each) for each in self.categories]}

    def some(self, rows: Sequence[int]) -> InstanceSet:
        """A part of them."""
        images = tuple(self.images[row] for row in rows)
        ids = {image["id"] for image in images}
        return replace(
            self,
            images=images,
            keys=tuple(self.keys[row] for row in rows),
            pictures=tuple(self.pictures[row] for row in rows),
            annotations={key: own for key, own in self.annotations.items() if key in ids},
        )


def _has_area(annotation: dict[str, Any]) -> bool:
    return min(annotation["bbox"][2:]) > 0


def _to_mask(annotation: dict[str, Any], height: int, width: int, key: str) -> np.ndarray:
    """COCO's polygons or run lengths, plain or compressed, as bool (H, W); DataError if they cannot be decoded."""
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


def read_instance_splits(place: Path) -> tuple[InstanceSet, InstanceSet]:
    """What is trained on and what is measured: see the module; DataError where annotations are missing or damaged."""
    if place.suffix == ".json":
        root = place.parent.parent if place.parent.name == "annotations" else place.parent
        files = [place.with_name(place.name.replace("val", split)) for split in ("train", "val")]
        if files[0] == files[1]:
            raise DataError(f"{place}: give the annotations of val, by the side of those of train")
        return _checked(*(read_instances(file, root) for file in files))
    found = [
        [folder / f"{stem.format(split)}.json" for split in ("train", "val")]
        for folder in (place / "annotations", place)
        for stem in ("instances_{}2017", "lvis_v1_{}")
        if (folder / f"{stem.format('val')}.json").is_file()
    ]
    if len(found) > 1:
        raise DataError(f"{place} has several annotations; give one of {', '.join(str(val) for _, val in found)}")
    if found:
        return _checked(*(read_instances(file, place) for file in found[0]))
    if (place / "test" / "instances.json").is_file():
        return _checked(
            *(read_instances(place / split / "instances.json", place / split) for split in ("train", "test"))
        )
    whole = place / "annotations.json"
    if not whole.is_file():
        raise DataError(f"{place}: no annotations/instances_val2017.json, lvis_v1_val.json, test/ or annotations.json")
    both = read_instances(whole, place)
    rows = [row for row, image in enumerate(both.images) if both.annotations.get(image["id"])]
    cut = len(rows) * TRAINED[0] // TRAINED[1]
    return _checked(both.some(rows[:cut]), both.some(rows[cut:]))


def keep_trained(train: InstanceSet, test: InstanceSet) -> tuple[InstanceSet, InstanceSet]:
    """Both with those categories alone of which `train` has a thing: others can only be missed, and are not asked.

    DataError where the measured pictures have no thing of theirs.
    """
    every = [each for some in train.annotations.values() for each in some]
    seen = {each.get("category_id") for each in every if not each.get("iscrowd")}
    kept = [
        replace(
            part,
            categories=tuple(category for category in part.categories if category["id"] in seen),
            annotations={
                image: [each for each in some if each.get("category_id") in seen]
                for image, some in part.annotations.items()
            },
        )
        for part in (train, test)
    ]
    return _checked(kept[0], kept[1])


def forget_kinds(pictures: InstanceSet) -> InstanceSet:
    """The same boxes as things of one category, without masks: for detection of things of any kind.

    DataError for LVIS, where a thing of a kind that was not looked for is in no box.
    """
    if pictures.lvis:
        raise DataError(f"{pictures.name}: not every thing has a box in LVIS, so none can be found regardless of kind")
    boxes = {
        image: [{**each, "category_id": 1, "segmentation": None} for each in some]
        for image, some in pictures.annotations.items()
    }
    return replace(pictures, annotations=boxes, categories=({"id": 1, "name": THING},))


def _checked(train: InstanceSet, test: InstanceSet) -> tuple[InstanceSet, InstanceSet]:
    for part in (train, test):
        if not any(part.annotations.values()):
            raise DataError(f"{part.name}: there is no box; detection needs some to train on and some to find")
    trained, tested = ([(each["id"], each.get("name")) for each in part.categories] for part in (train, test))
    for one, other in zip_longest(trained, tested):
        if one != other:
            raise DataError(f"{train.name} and {test.name} list different categories, first {one} and {other}")
    if train.has_masks != test.has_masks:
        masked = train if train.has_masks else test
        logger.warning("only %s has masks; boxes alone are learned and measured", masked.name)
    return train, test


def read_instances(file: Path, folder: Path) -> InstanceSet:
    """Read annotations, whose pictures lie in a folder, in folders in it, or in tar files in it.

    DataError, with the file and the entry, for what is not laid out as COCO's.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as annotations in COCO's format ({error!r})") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} cannot be read as annotations in COCO's format: it is {quoted(content)}, not an object"
        )
    images = _images(content, file)
    annotations = _annotations(content, images, file)
    categories = list_objects(content, "categories", file)
    for place, category in enumerate(categories):
        integer_field(category, "id", f"{file}: categories[{place}]")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    keys = tuple(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]) for image in images)
    split = file.stem.rpartition("_")[2] if file.stem.startswith(("instances_", "lvis")) else ""
    _warn_of_gaps(file, annotations)
    packed = {
        name: content for tar in sorted(folder.glob("*.tar")) for name, content in read_members(tar, SHARD_IMAGES)
    }
    places = [folder, folder / split, folder / f"{split}2017", folder / "images"]
    return InstanceSet(
        name=f"{folder.name}/{file.stem}",
        images=tuple(images),
        keys=keys,
        pictures=tuple(packed.get(key) or _find(key, places) for key in keys),
        annotations=dict(by_image),
        categories=tuple(sorted(categories, key=lambda category: category["id"])),
    )


def _images(content: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """The images, ascending by id; DataError for one that lacks a field, or has another type there."""
    images = list_objects(content, "images", file)
    for place, image in enumerate(images):
        where = f"{file}: images[{place}]"
        integer_field(image, "id", where)
        text_field(image, "file_name" if image.get("file_name") or not image.get("coco_url") else "coco_url", where)
        if integer_field(image, "width", where, 1) * integer_field(image, "height", where, 1) > MAX_PIXELS:
            raise DataError(f"{where}: has {image['width']} x {image['height']} pixels; the limit is {MAX_PIXELS:,}")
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            if name in image and not are_numbers(image[name]):
                raise DataError(f"{where}: `{name}` is {quoted(image[name])}; it must be a list of integers")
    return sorted(images, key=lambda image: image["id"])


def _annotations(content: dict[str, Any], images: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """The annotations; DataError for one with a field of another type, or a mask that is not of its image's size."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    annotations = list_objects(content, "annotations", file)
    for place, each in enumerate(annotations):
        where = f"{file}: annotations[{place}]"
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
    """Say what annotations lack."""
    empty = [each for each in annotations if not each.get("iscrowd") and not _has_area(each)]
    if empty:
        logger.warning(
            "%s: boxes without area: %d, annotation %s of picture %s first; nothing is learned from them, and nothing "
            "that is found can match them",
            *(file, len(empty), empty[0].get("id"), empty[0]["image_id"]),
        )
    bare = [each for each in annotations if not each.get("segmentation")]
    if 0 < len(bare) < len(annotations):
        logger.warning(
            "%s: annotations without a mask: %d of %d, annotation %s of picture %s first; boxes alone are learned and "
            "measured",
            *(file, len(bare), len(annotations), bare[0].get("id"), bare[0]["image_id"]),
        )


def _find(key: str, places: Sequence[Path]) -> Path:
    """Where a picture is, or where it should be."""
    return next((place / key for place in places if os.path.isfile(place / key)), places[0] / key)
