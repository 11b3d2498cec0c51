"""Objects365 v2 as it is published: boxes of 365 classes, in COCO's format, and images in numbered directories.

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perception_encoder.datasets.coco_annotations import overlaps_image
from perception_encoder.formats.entries import are_numbers

logger = logging.getLogger(__name__)

OBJECTS365 = "zhiyuan_objv2_"
"""How the names of its annotations begin."""
UNPUBLISHED = ("objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg", "objects365_v2_00908726.jpg")


def objects365_files(path: Path) -> dict[str, Path]:
    """Return the annotations of train and val below a directory; empty if it does not have both."""
    for directory in ("annotations", "{}", ""):
        files = {split: path / directory.format(split) / f"{OBJECTS365}{split}.json" for split in ("train", "val")}
        if all(file.is_file() for file in files.values()):
            return files
    return {}


def without_gaps(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return annotations without the images that were never published, and boxes outside their image; log the latter.

    `name`: of the file. What is damaged otherwise stays, for the check that follows.
    """
    images, objects = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(objects, list):
        return dict(content)
    missing = [each for each in images if isinstance(each, dict) and str(each.get("file_name")).endswith(UNPUBLISHED)]
    left_out = {_key(each.get("id")) for each in missing}
    sizes = {_key(each.get("id")): (each.get("height"), each.get("width")) for each in images if isinstance(each, dict)}
    rest = [each for each in objects if not isinstance(each, dict) or _key(each.get("image_id")) not in left_out]
    inside = [each for each in rest if not _is_outside(each, sizes)]
    if len(inside) < len(rest):
        logger.warning("%s: boxes outside their image: %d; they are left out", name, len(rest) - len(inside))
    published = [each for each in images if each not in missing] if missing else images
    return {**content, "images": published, "annotations": inside}


def _key(value: Any) -> Any:
    """Return an id that can be looked up, whatever it is."""
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
    """Return a function from an image's name in the annotations to its path, None if it does not exist."""
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
