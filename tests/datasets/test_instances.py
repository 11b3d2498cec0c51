"""Annotated boxes and masks: COCO's, LVIS's and YOLO's formats, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.instances import (
    UNPUBLISHED,
    decode_mask,
    read_annotations,
    read_instance_splits,
    read_instances,
)
from perception_encoder.errors import DataError, InputError, MediaNotFoundError
from perception_encoder.progress import untracked
from tests.data.tars import changing
from tests.datasets.drawn import described, write_instances, write_objects365, write_whole, write_yolo
from tests.evaluation.layers import png

pytest.importorskip("faster_coco_eval")


def test_objects_are_read(tmp_path: Path) -> None:
    train, test = read_instance_splits(write_instances(tmp_path, {"train": 3, "test": 2}))
    assert (len(train.keys), test.keys) == (3, ("1.jpg", "2.jpg")) and train.open(0).size == (64, 48)
    things = train.instances(0)
    left, top, width, height = train.annotations[1][0]["bbox"]
    assert things.boxes[0].tolist() == [left, top, left + width, top + height]
    assert set(things.labels) <= {1, 2} and things.masks.shape == (2, 48, 64)
    assert things.masks[0].sum() == width * height and things.masks[0][top, left]


def test_run_lengths_of_scenes_and_crowds(tmp_path: Path) -> None:
    content, _ = described(1)
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [48, 2, 48 * 63 - 2]}
    crowd = {**content["annotations"][0], "id": 7, "iscrowd": 1}
    file = write_whole(tmp_path, {**content, "annotations": [*content["annotations"], crowd]})
    dataset = read_instances(file, tmp_path)
    masks = dataset.instances(0).masks
    assert masks.shape == (1, 48, 64) and masks[0, :2, 1].all() and masks.sum() == 2
    assert dataset.seen_classes(untracked) == {content["annotations"][0]["category_id"]}
    assert [annotation["iscrowd"] for annotation in dataset.truth([0])["annotations"]] == [0, 1]
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(MediaNotFoundError, match=r"1\.jpg"):
        dataset.open(0)


def write_published(root: Path, stem: str, **changes: Any) -> None:
    """Two images of each split, and their annotations with `changes`, as COCO and LVIS are published."""
    said, samples = described(2)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        (root / "annotations" / f"{stem.format(split)}.json").write_text(json.dumps(said | changes), encoding="utf-8")
        (root / f"{split}2017").mkdir(exist_ok=True)
        for number, image in enumerate(samples, start=1):
            (root / f"{split}2017" / f"{number}.jpg").write_bytes(png(image))


def test_coco_and_lvis_directories(tmp_path: Path) -> None:
    write_published(tmp_path, "instances_{}2017")
    train, test = read_instance_splits(tmp_path)
    assert test.open(1).size == (64, 48) and not test.lvis
    federated = {"width": 64, "height": 48, "neg_category_ids": [9], "not_exhaustive_category_ids": []}
    images = [{"id": number, "coco_url": f"http://x/train2017/{number}.jpg"} | federated for number in (1, 2)]
    write_published(tmp_path, "lvis_v1_{}", images=images)
    with pytest.raises(DataError, match="several annotations"):
        read_instance_splits(tmp_path)
    train, test = read_instance_splits(tmp_path / "annotations" / "lvis_v1_val.json")
    assert train.name.endswith("lvis_v1_train") and train.open(0).size == (64, 48)
    assert test.lvis and test.keys[0] == "train2017/1.jpg"
    with pytest.raises(DataError, match="give the annotations of val"):
        read_instance_splits(tmp_path / "annotations" / "lvis_v1_train.json")


def test_boxes_are_cut_at_the_edges_of_their_image(tmp_path: Path) -> None:
    content, _ = described(2)
    content["annotations"][0]["bbox"] = [-5, 40, 90, 30]
    content["annotations"][1]["bbox"] = [-0.5, 0, 64.9, 48]
    dataset = read_instances(write_whole(tmp_path, content), tmp_path)
    assert dataset.instances(0).boxes.tolist() == [[0, 40, 64, 48], [0, 0, 64, 48]]
    assert dataset.truth([0])["annotations"][0]["bbox"] == [-5, 40, 90, 30]


def test_an_image_of_another_size_than_its_annotations(tmp_path: Path) -> None:
    content, _ = described(1)
    dataset = read_instances(write_whole(tmp_path, content), tmp_path)
    (tmp_path / "1.jpg").write_bytes(png(np.zeros((64, 48, 3), np.uint8)))
    with pytest.raises(InputError, match=r"1\.jpg: is 48x64 pixels"):
        dataset.open(0)


def test_categories_of_both_sets_are_the_same(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 1})
    file = place / "test" / "instances.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"blue"', '"navy"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"first \(9, 'blue'\) and \(9, 'navy'\)"):
        read_instance_splits(place)
    file.write_text(text, encoding="utf-8")
    with changing(file) as said:
        said["categories"].append({"id": 11})
    with pytest.raises(DataError, match=r"first None and \(11, None\)"):
        read_instance_splits(place)


def test_the_coco_subset(real_data: Path) -> None:
    train, test = read_instance_splits(real_data / "coco")
    assert len(train.keys) == 15 and len(test.keys) == 10 and not test.has_masks
    assert train.instances(0).boxes.shape[1] == 4


COUNTS = {"train": 4, "val": 2}


@pytest.mark.parametrize(("directory", "parts"), [("{split}", 2), ("{split}", 4), ("images/{split}", 2), (".", 4)])
def test_images_of_objects365_are_found_where_they_are_usual(tmp_path: Path, directory: str, parts: int) -> None:
    path = write_objects365(tmp_path, COUNTS, directory, parts)
    train, test = read_instance_splits(path)
    assert (len(train.keys), len(test.keys)) == (4, 2) and not train.has_masks and not train.lvis
    assert train.keys[1] == "images/v1/patch8/objects365_v1_00000001.jpg"
    assert all(part.open(row).size == (64, 48) for part in (train, test) for row in range(len(part.keys)))
    assert train.instances(1).masks is None and len(train.instances(1).boxes) == 1
    named = read_instance_splits(path / "annotations" / "zhiyuan_objv2_val.json")
    assert [part.keys for part in named] == [train.keys, test.keys]


def test_known_gaps_of_objects365_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_objects365(tmp_path, COUNTS)
    file = path / "annotations" / "zhiyuan_objv2_train.json"
    with changing(file) as content:
        for row, name in enumerate(UNPUBLISHED):
            content["images"].append({**content["images"][0], "id": 90 + row, "file_name": f"images/v1/patch6/{name}"})
            content["annotations"].append({**content["annotations"][0], "id": 90 + row, "image_id": 90 + row})
        content["annotations"].append({**content["annotations"][0], "id": 99, "bbox": [70, 3, 9, 9]})
        content["categories"][0]["name"] = "rde"
    train, test = read_instance_splits(path)
    assert len(train.keys) == 4 and train.categories == test.categories
    assert sorted(item["id"] for some in train.annotations.values() for item in some) == [1, 2, 3, 4, 5, 6]
    assert f"{file}: boxes outside their image: 1; they are left out" in caplog.messages
    missing = next((path / "train").rglob("objects365_v2_*.jpg"))
    missing.unlink()
    with pytest.raises(DataError, match=rf"_train\.json: 1 images do not exist, first '.*{missing.name}'"):
        read_instance_splits(path)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("images", "file_name", 7, "image 2: `file_name` is 7; it must be a non-empty string"),
        ("images", "file_name", None, "image 2: `coco_url` is missing or null"),
        ("images", "file_name", "9.jpg", "1 images do not exist, first '9.jpg'"),
        ("images", "id", "2", "images[1]: `id` is '2'; it must be an integer of at least 0"),
        ("images", "id", 1, "images[1]: `id` is 1, which an earlier entry has already"),
        ("images", "width", 0, "image 2: `width` is 0; it must be an integer of at least 1"),
        ("images", "height", 10**9, "image 2: has 64 x 1000000000 pixels; the limit is"),
        ("images", "neg_category_ids", 7, "image 2: `neg_category_ids` is 7; it must be a list of integers"),
        ("categories", "id", None, "categories[1]: `id` is missing or null"),
        ("annotations", "image_id", 77, "annotations[1]: image 77 or category "),
        ("annotations", "category_id", {}, "annotations[1]: `category_id` is {}; it must be an intege"),
        ("annotations", "bbox", None, "of 1.jpg: `bbox` is missing or null; it must be [left"),
        ("annotations", "bbox", [1, 2, "3", 4], "of 1.jpg: `bbox` is [1, 2, '3', 4]; it must be [left"),
        ("annotations", "bbox", [0, 0, 1, float("nan")], "of 1.jpg: `bbox` is [0, 0, 1, nan]"),
        ("annotations", "bbox", [9, 9, -4, 4], "`bbox` is [9, 9, -4, 4]; it must be [left"),
        ("annotations", "bbox", [64, 9, 4, 4], "`bbox` is [64, 9, 4, 4]; it must be inside the image of 64x48"),
        ("annotations", "bbox", [9, -9, 4, 9], "`bbox` is [9, -9, 4, 9]; it must be inside the image of 64x48"),
        ("annotations", "iscrowd", "no", "of 1.jpg: `iscrowd` is 'no'; it must be 0 or 1"),
        ("annotations", "area", "big", "of 1.jpg: `area` is 'big'; it must be a number of pixels"),
        ("annotations", "segmentation", [[1, 2, 3]], "of 1.jpg: `segmentation` is [[1, 2, 3]]; it must be polygons"),
        ("annotations", "segmentation", {"size": [9, 9], "counts": "0"}, "`segmentation` is {"),
        ("annotations", "segmentation", {"size": [48, 64], "counts": [5, 4]}, "`segmentation` is {"),
        ("annotations", "segmentation", {"size": [48, 64], "counts": "zz~~@@"}, "`segmentation` is {"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, part: str, field: str, value: Any, message: str) -> None:
    content, _ = described(3)
    content[part][1][field] = value
    if field == "file_name" and value is None:
        content[part][1]["coco_url"] = None
    file = write_whole(tmp_path, content)
    with pytest.raises(DataError) as raised:
        read_instances(file, tmp_path)
    assert message in str(raised.value) and str(file) in str(raised.value)


def test_a_file_that_is_not_an_object(tmp_path: Path) -> None:
    for text in ("", "[]", "7", '{"images"'):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"a\.json cannot be read as"):
            read_annotations(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"`images` is missing or null"):
        read_instances(write_whole(tmp_path, {"categories": 7}), tmp_path)


def test_masks_of_every_form_are_the_same() -> None:
    mask = decode_mask({"size": [6, 8], "counts": [6, 4, 38]}, 6, 8)
    assert mask.sum() == 4 and mask[:4, 1].all() and mask.dtype == bool
    assert np.array_equal(mask, decode_mask({"size": [6, 8], "counts": "64V1"}, 6, 8))
    assert decode_mask([[1, 1, 5, 1, 5, 4, 1, 4]], 6, 8)[1:4, 1:5].all()


def test_annotations_without_ids_and_some_without_masks_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, _ = described(2)
    for annotation in content["annotations"]:
        del annotation["id"]
    del content["annotations"][0]["segmentation"]
    dataset = read_instances(write_whole(tmp_path, content), tmp_path)
    assert [annotation["id"] for annotation in dataset.truth([0, 1])["annotations"]] == [1, 2, 3]
    assert not dataset.has_masks and "1 of 3 annotations have no mask; only boxes are trained" in caplog.text


YOLO = {"train": 3, "val": 2}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("name", ["", "data.yaml"])
def test_objects_are_those_of_cocos_format(tmp_path: Path, masks: bool, name: str) -> None:
    write_instances(tmp_path / "coco", {"train": 3, "test": 2}, masks)
    write_yolo(tmp_path / "yolo", YOLO, masks)
    for ours, known in zip(
        read_instance_splits(tmp_path / "yolo" / name), read_instance_splits(tmp_path / "coco"), strict=True
    ):
        assert [category["name"] for category in ours.categories] == ["red", "blue"] and ours.has_masks == masks
        for row in range(len(known.keys)):
            assert np.array_equal(ours.open(row), known.open(row)) and ours.size(row) == known.size(row)
            one, other = ours.instances(row), known.instances(row)
            assert np.allclose(one.boxes, other.boxes, atol=1e-4) and one.labels.tolist() == other.labels.tolist()
            assert (one.masks is None and other.masks is None) or np.array_equal(one.masks, other.masks)
    assert ours.keys == ("images/val/1.png", "images/val/2.png")


def test_layouts_of_annotation_tools(tmp_path: Path) -> None:
    """Roboflow's `../train/images` and lists of names, text files of images, and images without objects or turned."""
    file = write_yolo(tmp_path / "a", YOLO, masks=False)
    expected = [part.annotations for part in read_instance_splits(file)]
    for split in YOLO:
        for kind in ("images", "labels"):
            (tmp_path / "b" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "a" / kind / split).rename(tmp_path / "b" / split / kind)
    (tmp_path / "b" / "data.yaml").write_text("train: ../train/images\nval: [../val/images]\nnames: [red, blue]\n")
    assert [part.annotations for part in read_instance_splits(tmp_path / "b")] == expected
    (tmp_path / "b" / "val.txt").write_text("./val/images/2.png\n\nval/images/1.png\n")
    (tmp_path / "b" / "val" / "labels" / "2.txt").unlink()
    (tmp_path / "b" / "data.yaml").write_text("train: train/images\ntest: val.txt\nnames: [red, blue]\n")
    _, test = read_instance_splits(tmp_path / "b")
    assert test.keys == ("val/images/2.png", "val/images/1.png") and len(test.instances(0).boxes) == 0
    turned = Image.new("RGB", (48, 64))
    exif = turned.getexif()
    exif[0x0112] = 6  # upright, it is 64 wide
    turned.save(tmp_path / "b" / "val" / "images" / "1.png", exif=exif)
    _, test = read_instance_splits(tmp_path / "b")
    assert test.size(1) == (48, 64) and test.open(1).size == (64, 48)
    (tmp_path / "b" / "val" / "images" / "1.png").write_bytes(b"no image")
    _, test = read_instance_splits(tmp_path / "b")  # other images can still be used
    with pytest.raises(InputError, match=r"val/images/1\.png"):
        test.open(1)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data.yaml", "a: [", "data.yaml cannot be read as YAML"),
        ("data.yaml", "- a", "it must have `train`, `val` and `names`"),
        ("data.yaml", "train: images/train\nval: images/val\n", "`names` is missing or null; it must list the classes"),
        ("data.yaml", "names: {a: 1}\ntrain: images/train\n", "`names` has 'a': 1; it must have a number and a name"),
        ("data.yaml", "names: [a, b]\ntrain: images/train\n", "`test` is missing or null; it must be a directory"),
        ("data.yaml", "names: [a]\ntrain: images/x\n", "`train` is 'images/x', which does not exist in"),
        ("data.yaml", "names: [a]\ntrain: labels/train\n", "`train` has no images: 'labels/train'"),
        ("data.yaml", "names: [a, b]\ntrain: images/train\nval: data.yaml\n", "data.yaml: line 1: 'names: [a, b]'"),
        ("labels/val/1.txt", "0 0.5 0.5 0.1\n", "1.txt: line 1: is '0 0.5 0.5 0.1'; it must be a class, and 4 numbers"),
        ("labels/val/1.txt", "\n0 32 24 10 10\n", "1.txt: line 2: is '0 32 24 10 10'; it must be"),
        ("labels/val/1.txt", "0 nan 0.5 0.1 0.1\n", "it must be a class"),
        ("labels/val/1.txt", "red 0.5 0.5 0.1 0.1\n", "it must be a class"),
        ("labels/val/1.txt", "2 0.5 0.5 0.1 0.1\n", "1.txt: line 1: class 2 is not in `names` of"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    data = write_yolo(tmp_path, YOLO)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as caught:
        read_instance_splits(data)
    assert message in str(caught.value)
