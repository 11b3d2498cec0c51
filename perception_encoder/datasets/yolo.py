"""Read objects in YOLO's format: data.yaml names images and classes; each image has a text file of its objects.

A line has a class and, as shares of the image's sides, the centre, width and height of a box or an outline's points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception_encoder.errors import DataError, InputError, needs_extra, one_line
from perception_encoder.formats.entries import is_integer, quoted, read_lines
from perception_encoder.formats.media_directory import list_media
from perception_encoder.preprocess.image import upright_size
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, escape_name

ROUNDED = 0.01
"""By how much annotation tools let a box leave its image, as a share of its side."""


Split = dict[str, Any]
"""The images of a split, as the fields of an `InstanceSet`, with entries as in COCO's JSON; masks are polygons."""


def read_yolo(file: Path) -> tuple[Split, Split]:
    """Read the training and the test set (`val`, or else `test`) of a data.yaml.

    Raises DataError that names the first bad field or line, and MissingExtraError without PyYAML. Images that cannot be
    decoded fail when they are opened.
    """
    content = _read_yaml(file)
    names = content.get("names")
    classes = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(classes, dict) or not classes:
        raise DataError(f"{file}: `names` is {quoted(names)}; it must list the classes")
    for number, name in classes.items():
        if not is_integer(number) or not isinstance(name, str | int):
            raise DataError(f"{file}: `names` has {quoted(number)}: {quoted(name)}; it must have a number and a name")
    categories = tuple({"id": number, "name": str(name)} for number, name in sorted(classes.items()))
    held_out = "val" if content.get("val") else "test"
    train, test = (_read_split(file, content, split, categories) for split in ("train", held_out))
    return train, test


def _read_yaml(file: Path) -> Mapping[str, Any]:
    with needs_extra("eval", "pyyaml"):
        import yaml
    try:
        content = yaml.safe_load("\n".join(read_lines(file)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} is {quoted(content)}; it must have `train`, `val` and `names`")
    return content


def _read_split(file: Path, content: Mapping[str, Any], split: str, categories: tuple[dict[str, Any], ...]) -> Split:
    images = list(dict.fromkeys(_list_images(file, content, split)))
    if not images:
        raise DataError(f"{file}: `{split}` has no images: {quoted(content.get(split))}")
    known, records, annotations = {item["id"] for item in categories}, [], {}
    for number, image in enumerate(images, start=1):
        try:
            width, height = upright_size(image)
        except InputError:  # reported when it is opened
            width, height = 1, 1
        name = Path(os.path.relpath(image, file.parent)).as_posix()
        records.append({"id": number, "file_name": name, "width": width, "height": height})
        objects = _read_labels(image, file, known, width, height)
        annotations[number] = [{"image_id": number, "iscrowd": 0, **item} for item in objects]
    return {
        "name": escape_name(f"{file.parent.name}/{split}"),
        "keys": tuple(record["file_name"] for record in records),
        "images": tuple(images),
        "records": tuple(records),
        "annotations": annotations,
        "categories": categories,
    }


def _list_images(file: Path, content: Mapping[str, Any], split: str) -> Iterator[Path]:
    """Yield the images of a split: those in directories, and those that text files list.

    Paths are relative to `path`, or else to the file: exported datasets often name another computer's directory, and
    start with `../` where they should not.
    """
    value = content.get(split)
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str) or not entry or "\0" in entry:
            raise DataError(f"{file}: `{split}` is {quoted(value)}; it must be a directory, a text file, or a list")
        roots = [file.parent / str(content.get("path") or "").replace("\0", ""), file.parent]
        places = [root / part for root in roots for part in (entry, entry.removeprefix("../"))]
        place = next((place for place in places if os.path.exists(place)), None)
        if place is None:
            raise DataError(f"{file}: `{split}` is {quoted(entry)}, which does not exist in {roots[0]}")
        if place.is_dir():
            yield from (path for path in list_media(place) if path.suffix.lower() in IMAGE_SUFFIXES)
            continue
        for row, line in enumerate(read_lines(place), start=1):
            if line.strip():
                image = place.parent / line.strip()
                if not os.path.isfile(image):
                    raise DataError(f"{place}: line {row}: {quoted(line)} does not exist")
                yield image


def _read_labels(image: Path, file: Path, known: set[int], width: int, height: int) -> Iterator[dict[str, Any]]:
    """Yield an image's objects; none without a file, as annotation tools write it."""
    parts = list(image.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[-2 - parts[-2::-1].index("images")] = "labels"
    labels = Path(*parts)
    for row, line in enumerate(read_lines(labels) if os.path.lexists(labels) else (), start=1):
        where, (first, *rest) = f"{labels}: line {row}", line.split() or [""]
        if not first:
            continue
        try:
            number, values = int(first), [float(value) for value in rest]
        except ValueError:
            number, values = -1, []
        shaped = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        if not shaped or not all(-ROUNDED <= value <= 1 + ROUNDED for value in values):
            expected = "a class, and 4 numbers of a box or 6 and more of an outline, from 0 to 1"
            raise DataError(f"{where}: is {quoted(line)}; it must be {expected}")
        if number not in known:
            raise DataError(f"{where}: class {number} is not in `names` of {file}")
        xs, ys = [value * width for value in values[::2]], [value * height for value in values[1::2]]
        if len(values) == 4:
            (x, wide), (y, high) = xs, ys
            left, top, outline = x - wide / 2, y - high / 2, None
        else:
            left, top, wide, high = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
            outline = [[value for point in zip(xs, ys, strict=True) for value in point]]
        item = {"category_id": number, "bbox": [left, top, wide, high], "area": wide * high}
        yield item if outline is None else {**item, "segmentation": outline}
