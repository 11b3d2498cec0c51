"""Read annotations in COCO's or LVIS's format, reporting all problems of a file at once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.formats.entries import are_numbers, is_integer, quoted, read_json
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.source import escape_name

logger = logging.getLogger(__name__)

LISTED, ROOM = 10, 700
"""Maximum number of problems in an error, and maximum length of each."""
BEYOND = 1.0
"""Pixels by which a box may exceed its image without a warning, like some in COCO."""

Find = Callable[[dict[str, Any]], Iterable[str]]
"""Returns the problems of an entry."""


@dataclass
class Problems:
    """Collects the problems of a file."""

    file: Path
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Add a problem, in one line."""
        self.texts.append(text)

    def check(self) -> None:
        """Raise DataError, with the first problems and the number of the rest, if there are any."""
        if not self.texts:
            return
        listed, room = list[str](), ROOM
        for text in self.texts[:LISTED]:
            room -= len(text)
            if room < 0 and listed:
                break
            listed.append(text)
        if len(self.texts) == 1:
            raise DataError(f"{self.file}: {listed[0]}")
        rest = len(self.texts) - len(listed)
        lines = [f"{self.file} has {len(self.texts)} problems:", *listed, *([f"and {rest} more"] if rest else [])]
        raise DataError("\n  ".join(lines))


@dataclass(frozen=True)
class Annotations:
    """The content of a file."""

    records: tuple[dict[str, Any], ...]
    """The images' entries, sorted by id."""
    keys: tuple[str, ...]
    """File names of the images."""
    objects: dict[int, list[dict[str, Any]]]
    """The annotations, by the image's id."""
    categories: tuple[dict[str, Any], ...]
    """Sorted by id."""


def read_annotations(file: Path) -> dict[str, Any]:
    """Read a file's JSON without checks; DataError if it is not an object."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} cannot be read as COCO annotations: it is {quoted(content)}, not an object")
    return content


def check_annotations(content: Mapping[str, Any], problems: Problems) -> Annotations:
    """Check the images, categories and annotations of a file, and return those without problems."""
    records, images = _sound(content, "images", problems, _image_problems, lambda value: f" ({_name(value)})")
    categories, numbers = _sound(content, "categories", problems, lambda entry: ())
    known = {record["id"]: record for record in records}
    objects, ids = _sound(
        content,
        "annotations",
        problems,
        lambda item: _object_problems(item, known, images, numbers),
        lambda item: f" of {_name(known[item['image_id']])}" if _owner(item) in known else "",
        optional_id=True,
    )
    bare = [item for item in objects if item.get("id") is None]
    if ids and bare:
        problems.add(f"`id` is missing in {len(bare)} annotations but present in others")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in objects:
        by_image[annotation["image_id"]].append(annotation)
    records.sort(key=lambda record: record["id"])
    categories.sort(key=lambda category: category["id"])
    return Annotations(tuple(records), tuple(map(file_name, records)), dict(by_image), tuple(categories))


def file_name(image: Mapping[str, Any]) -> str:
    """Return an image's path below the image directories; in LVIS this is the end of a URL."""
    return str(image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:]))


def has_area(annotation: Mapping[str, Any]) -> bool:
    """Return whether a box has a positive area."""
    return min(annotation["bbox"][2:]) > 0


def overlaps_image(box: Sequence[float], height: int, width: int) -> bool:
    """Return whether any part of a box lies inside the image."""
    left, top, wide, high = box
    return left < width and top < height and left + wide > 0 and top + high > 0


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode COCO's polygons or run lengths, plain or compressed, as bool (H, W).

    ValueError or RuntimeError if that fails, MissingExtraError without faster-coco-eval.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        runs: Any = segmentation
    elif isinstance(segmentation, dict):
        runs = mask.frPyObjects(segmentation, height, width)
    else:
        runs = mask.merge(mask.frPyObjects(segmentation, height, width))
    return np.asarray(mask.decode(runs), dtype=bool)


def _sound(
    content: Mapping[str, Any],
    name: str,
    problems: Problems,
    find: Find,
    label: Callable[[dict[str, Any]], str] = lambda value: "",
    optional_id: bool = False,
) -> tuple[list[dict[str, Any]], set[int]]:
    """Return a list's valid entries and the ids of all entries; add the problems of the others.

    `label`: tells which entry it is, besides its number.
    """
    entries, sound, ids = content.get(name), list[dict[str, Any]](), set[int]()
    if not isinstance(entries, list):
        problems.add(f"`{name}` is {quoted(entries)}; it must be a list of objects")
        return sound, ids
    for index, item in enumerate(entries):
        if not isinstance(item, dict):
            problems.add(f"{name}[{index}] is {quoted(item)}; it must be an object")
            continue
        texts, identity = list(find(item)), item.get("id")
        if identity is not None or not optional_id:
            if not is_integer(identity):
                texts.insert(0, f"`id` is {quoted(identity)}; it must be an integer of at least 0")
            elif identity in ids:
                texts.insert(0, f"`id` is {identity}, which an earlier entry has already")
            else:
                ids.add(identity)
        for text in texts:
            problems.add(f"{name}[{index}]{label(item)}: {text}")
        if not texts:
            sound.append(item)
    return sound, ids


def _name(image: Mapping[str, Any]) -> str:
    """Return an image's short name for an error."""
    name = image.get("file_name") or image.get("coco_url")
    return (name if len(name) <= 60 else f"{name[:28]}…{name[-28:]}") if isinstance(name, str) else "without a name"


def _owner(annotation: Mapping[str, Any]) -> int | None:
    """Return the id of an annotation's image if it is valid."""
    image = annotation.get("image_id")
    return image if is_integer(image) else None


def _image_problems(image: dict[str, Any]) -> Iterator[str]:
    name = "file_name" if image.get("file_name") or not image.get("coco_url") else "coco_url"
    if not isinstance(image.get(name), str) or not image[name]:
        yield f"`{name}` is {quoted(image.get(name))}; it must be a non-empty string"
    wrong = [side for side in ("width", "height") if not is_integer(image.get(side), 1)]
    for side in wrong:
        yield f"`{side}` is {quoted(image.get(side))}; it must be an integer of at least 1"
    if not wrong and image["width"] * image["height"] > MAX_PIXELS:
        yield f"has {quoted(image['width'])} x {quoted(image['height'])} pixels; the limit is {MAX_PIXELS:,}"
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        if name in image and not are_numbers(image[name]):
            yield f"`{name}` is {quoted(image[name])}; it must be a list of integers"


def _object_problems(
    annotation: dict[str, Any],
    known: Mapping[int, dict[str, Any]],
    images: Collection[int],
    categories: Collection[int],
) -> Iterator[str]:
    """`known`: images without problems; `images`: the ids of all."""
    for name, ids, owner in (("image_id", images, "image"), ("category_id", categories, "category")):
        value = annotation.get(name)
        if not is_integer(value):
            yield f"`{name}` is {quoted(value)}; it must be an integer of at least 0"
        elif value not in ids:
            yield f"`{name}` is {quoted(value)}, which is not the id of any {owner}"
    image = known.get(owner_id) if (owner_id := _owner(annotation)) is not None else None
    size = None if image is None else (image["height"], image["width"])
    yield from _box_problems(annotation.get("bbox"), size)
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield f"`iscrowd` is {quoted(annotation['iscrowd'])}; it must be 0 or 1"
    if not are_numbers([annotation.get("area", 0)], least=0, most=MAX_PIXELS):
        yield f"`area` is {quoted(annotation['area'])}; it must be a number of pixels"
    if annotation.get("segmentation"):
        yield from _mask_problems(annotation["segmentation"], size)


def _box_problems(box: Any, size: tuple[int, int] | None) -> Iterator[str]:
    """`size`: height and width of the image, if they are known."""
    if not are_numbers(box) or len(box) != 4:
        yield f"`bbox` is {quoted(box)}; it must be [left, top, width, height]"
        return
    if min(box[2:]) < 0:
        yield f"`bbox` is {quoted(box)}; width and height must be at least 0"
    elif size is not None and min(box[2:]) > 0 and not overlaps_image(box, *size):
        yield f"`bbox` is {quoted(box)}, outside the image of {size[1]}x{size[0]} pixels"


def _mask_problems(mask: Any, size: tuple[int, int] | None) -> Iterator[str]:
    expected = None if size is None else list(size)
    if not _is_segmentation(mask, expected):
        yield (
            f"`segmentation` is {quoted(mask)}; it must be a list of polygons [x, y, x, y, x, y, …], or run lengths "
            f"with `counts` and the `size` of the image, {expected}"
        )
    elif isinstance(mask, dict) and size is not None:
        try:
            if isinstance(mask["counts"], str):
                decode_mask(mask, *size)
            elif sum(mask["counts"]) != size[0] * size[1]:
                raise ValueError(f"its runs have {sum(mask['counts'])} pixels, the image {size[0] * size[1]}")
        except (ValueError, RuntimeError) as error:
            yield f"`segmentation` cannot be decoded: {error}"


def _is_segmentation(value: Any, size: list[int] | None) -> bool:
    if isinstance(value, dict):
        counts = value.get("counts")
        runs = isinstance(counts, str) or are_numbers(counts, least=0, most=MAX_PIXELS)
        return runs and (size is None or value.get("size") == size)
    if not isinstance(value, list):
        return False
    return all(are_numbers(item) and len(item) >= 6 and len(item) % 2 == 0 for item in value)


def warn_of_gaps(file: Path, annotations: Annotations) -> None:
    """Log annotations without a box or a mask, and boxes that extend beyond their image."""

    def warn(text: str, some: list[dict[str, Any]], consequence: str, of: str = "") -> None:
        which = f"annotation {some[0].get('id')} of image {some[0]['image_id']}"
        logger.warning("%s: %s: %d%s, %s first; %s", escape_name(file), text, len(some), of, which, consequence)

    sizes = {record["id"]: record for record in annotations.records}
    objects = [item for some in annotations.objects.values() for item in some]
    plain = [item for item in objects if not item.get("iscrowd")]
    if empty := [item for item in plain if not has_area(item)]:
        warn("boxes without area", empty, "they are ignored in training and evaluation")
    if wide := [item for item in plain if _reaches_beyond(item["bbox"], sizes[item["image_id"]])]:
        warn("boxes that reach beyond their image", wide, "they are clipped for training")
    bare = [item for item in objects if not item.get("segmentation")]
    if 0 < len(bare) < len(objects):
        warn("annotations without a mask", bare, "only boxes are trained and evaluated", f" of {len(objects)}")


def _reaches_beyond(box: list[float], image: Mapping[str, Any]) -> bool:
    left, top, width, height = box
    over = (-left, -top, left + width - image["width"], top + height - image["height"])
    return max(over) > BEYOND
