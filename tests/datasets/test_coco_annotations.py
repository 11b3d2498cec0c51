"""Damaged annotations: what is wrong with a file is listed at once, with the images' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception_encoder.datasets.coco_annotations import (
    LISTED,
    Problems,
    decode_mask,
    overlaps_image,
    read_annotations,
)
from perception_encoder.datasets.instances import read_instances
from perception_encoder.errors import DataError
from tests.datasets.drawn import described, write_whole

pytest.importorskip("faster_coco_eval")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("images", "file_name", 7, "images[1] (without a name): `file_name` is 7; it must be a non-empty string"),
        ("images", "file_name", None, "images[1] (without a name): `file_name` is missing or null"),
        ("images", "file_name", "9.jpg", "the image '9.jpg' does not exist"),
        ("images", "id", "2", "images[1] (2.jpg): `id` is '2'; it must be an integer of at least 0"),
        ("images", "id", 1, "images[1] (2.jpg): `id` is 1, which an earlier entry has already"),
        ("images", "width", 0, "images[1] (2.jpg): `width` is 0; it must be an integer of at least 1"),
        ("images", "height", 10**9, "images[1] (2.jpg): has 64 x 1000000000 pixels; the limit is"),
        ("categories", "id", None, "categories[1]: `id` is missing or null"),
        ("categories", "id", 4, "categories[1]: `id` is 4, which an earlier entry has already"),
        ("annotations", "id", 1, "of 1.jpg: `id` is 1, which an earlier entry has already"),
        ("annotations", "id", None, "`id` is missing in 1 annotations but present in others"),
        ("annotations", "image_id", [1], "annotations[1]: `image_id` is [1]; it must be an intege"),
        ("annotations", "image_id", 77, "annotations[1]: `image_id` is 77, which is not the id of any image"),
        ("annotations", "category_id", {}, "of 1.jpg: `category_id` is {}; it must be an intege"),
        ("annotations", "category_id", None, "of 1.jpg: `category_id` is missing or null"),
        ("annotations", "category_id", 5, "of 1.jpg: `category_id` is 5, which is not the id of any category"),
        ("annotations", "bbox", None, "of 1.jpg: `bbox` is missing or null; it must be [left"),
        ("annotations", "bbox", [1, 2, "3", 4], "of 1.jpg: `bbox` is [1, 2, '3', 4]; it must be [left"),
        ("annotations", "bbox", [1, 2, 3], "of 1.jpg: `bbox` is [1, 2, 3]; it must be [left"),
        ("annotations", "bbox", [0, 0, 1, float("nan")], "of 1.jpg: `bbox` is [0, 0, 1, nan]"),
        ("annotations", "bbox", [9, 9, -4, 4], "`bbox` is [9, 9, -4, 4]; width and height must be at least 0"),
        ("annotations", "bbox", [64, 9, 4, 4], "`bbox` is [64, 9, 4, 4], outside the image of 64x48 pixels"),
        ("annotations", "bbox", [9, -9, 4, 9], "`bbox` is [9, -9, 4, 9], outside the image of 64x48 pixels"),
        ("annotations", "iscrowd", "no", "of 1.jpg: `iscrowd` is 'no'; it must be 0 or 1"),
        ("annotations", "area", "big", "of 1.jpg: `area` is 'big'; it must be a number of pixels"),
        ("annotations", "segmentation", [[1, 2, 3]], "of 1.jpg: `segmentation` is [[1, 2, 3]]; it must be a list of"),
        ("annotations", "segmentation", {"size": [9, 9], "counts": "0"}, "and the `size` of the image, [48, 64]"),
        ("annotations", "segmentation", {"size": [48, 64], "counts": [5, 4]}, "its runs have 9 pixels"),
        ("annotations", "segmentation", {"size": [48, 64], "counts": "zz~~@@"}, "of 1.jpg: `segmentation` cannot be"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, part: str, field: str, value: Any, message: str) -> None:
    content, _ = described(3)
    content[part][1][field] = value
    file = write_whole(tmp_path, content)
    with pytest.raises(DataError) as raised:
        read_instances(file, tmp_path)
    assert message in str(raised.value)


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    content, _ = described(3)
    content["images"][1]["width"] = 0
    content["images"].append("image")
    del content["annotations"][0]["bbox"]
    content["annotations"][1] |= {"bbox": [900, 0, 4, 4], "category_id": 5, "iscrowd": 3}
    content["annotations"][3]["segmentation"] = {"size": [48, 64], "counts": [5, 4]}
    file = write_whole(tmp_path, content)
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(DataError) as raised:
        read_instances(file, tmp_path)
    first, *rest = str(raised.value).splitlines()
    assert first == f"{file} has 8 problems:"
    assert [line.strip() for line in rest] == [
        "images[1] (2.jpg): `width` is 0; it must be an integer of at least 1",
        "images[3] is 'image'; it must be an object",
        "annotations[0] of 1.jpg: `bbox` is missing or null; it must be [left, top, width, height]",
        "annotations[1] of 1.jpg: `category_id` is 5, which is not the id of any category",
        "annotations[1] of 1.jpg: `bbox` is [900, 0, 4, 4], outside the image of 64x48 pixels",
        "annotations[1] of 1.jpg: `iscrowd` is 3; it must be 0 or 1",
        "annotations[3] of 3.jpg: `segmentation` cannot be decoded: its runs have 9 pixels, the image 3072",
        "the image '3.jpg' does not exist",
    ]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    content, _ = described(40)
    for annotation in content["annotations"]:
        annotation["bbox"] = None
    with pytest.raises(DataError, match="has 60 problems") as raised:
        read_instances(write_whole(tmp_path, content, 40), tmp_path)
    lines = str(raised.value).splitlines()
    assert len(lines) <= LISTED + 2 and lines[-1].strip() == f"and {60 - (len(lines) - 2)} more"
    assert len(str(raised.value)) < 1000 and "left out" not in str(raised.value)


def test_long_names_do_not_hide_other_problems(tmp_path: Path) -> None:
    problems = Problems(tmp_path)
    problems.check()
    for _ in range(3):
        problems.add("x" * 400)
    with pytest.raises(DataError, match=r"has 3 problems:\n  x+\n  and 2 more$"):
        problems.check()


def test_a_name_of_60_letters_is_shown_whole_and_a_longer_one_by_its_ends(tmp_path: Path) -> None:
    names = ("a" * 28 + "-bcd-" + "e" * 23 + ".jpg", "a" * 28 + "-bcde-" + "f" * 23 + ".jpg")
    content, _ = described(2)
    for image, name in zip(content["images"], names, strict=True):
        image |= {"file_name": name, "width": 0}
    with pytest.raises(DataError) as raised:
        read_instances(write_whole(tmp_path, content), tmp_path)
    assert len(names[0]) == 60 and f"({names[0]})" in str(raised.value)
    assert len(names[1]) == 61 and f"({'a' * 28}…-{'f' * 23}.jpg)" in str(raised.value)


def test_a_file_that_is_not_an_object(tmp_path: Path) -> None:
    for text in ("", "[]", "7", '{"images"'):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"a\.json cannot be read as"):
            read_annotations(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"`images` is missing or null.*\n.*`categories` is 7.*\n.*`annotations` is"):
        read_instances(write_whole(tmp_path, {"categories": 7}), tmp_path)


def test_masks_of_every_form_are_the_same() -> None:
    mask = decode_mask({"size": [6, 8], "counts": [6, 4, 38]}, 6, 8)
    assert mask.sum() == 4 and mask[:4, 1].all() and mask.dtype == bool
    assert np.array_equal(mask, decode_mask({"size": [6, 8], "counts": "64V1"}, 6, 8))
    assert decode_mask([[1, 1, 5, 1, 5, 4, 1, 4]], 6, 8)[1:4, 1:5].all()


def test_boxes_that_touch_an_edge_are_outside() -> None:
    assert overlaps_image([-3, 0, 4, 4], 10, 10) and overlaps_image([9.5, 9, 4, 4], 10, 10)
    assert not overlaps_image([-4, 0, 4, 4], 10, 10) and not overlaps_image([10, 9, 4, 4], 10, 10)


def test_annotations_without_ids_are_read(tmp_path: Path) -> None:
    content, _ = described(2)
    for annotation in content["annotations"]:
        del annotation["id"]
    dataset = read_instances(write_whole(tmp_path, json.loads(json.dumps(content))), tmp_path)
    assert [annotation["id"] for annotation in dataset.truth([0, 1])["annotations"]] == [1, 2, 3]
