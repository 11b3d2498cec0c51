"""Annotated boxes and masks: COCO's and LVIS's formats, scenes, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perception_encoder.datasets.instances import read_instance_splits, read_instances
from perception_encoder.errors import DataError, MediaNotFoundError
from tests.datasets.drawn import described, write_instances
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
    said, _ = described(1)
    said["annotations"] = said["annotations"][:1]
    said["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [48, 2, 48 * 63 - 2]}
    crowd = {**said["annotations"][0], "id": 7, "iscrowd": 1}
    (tmp_path / "annotations.json").write_text(
        json.dumps({**said, "annotations": [*said["annotations"], crowd]}), encoding="utf-8"
    )
    dataset = read_instances(tmp_path / "annotations.json", tmp_path)
    masks = dataset.instances(0).masks
    assert masks.shape == (1, 48, 64) and masks[0, :2, 1].all() and masks.sum() == 2
    with pytest.raises(MediaNotFoundError, match=r"1\.jpg"):
        dataset.open(0)


def test_coco_and_lvis_directories(tmp_path: Path) -> None:
    said, samples = described(2)
    for name, directory in (("instances_{}2017", "coco"), ("lvis_v1_{}", "lvis")):
        for split in ("train", "val"):
            images = said["images"]
            if directory == "lvis":
                images = [
                    {**{k: v for k, v in image.items() if k != "file_name"}, "neg_category_ids": [9]}
                    | {"not_exhaustive_category_ids": [], "coco_url": f"http://x/train2017/{image['id']}.jpg"}
                    for image in images
                ]
            (tmp_path / directory / "annotations").mkdir(parents=True, exist_ok=True)
            file = tmp_path / directory / "annotations" / f"{name.format(split)}.json"
            file.write_text(json.dumps({**said, "images": images}), encoding="utf-8")
            (tmp_path / directory / f"{split}2017").mkdir()
            for number, image in enumerate(samples, start=1):
                (tmp_path / directory / f"{split}2017" / f"{number}.jpg").write_bytes(png(image))
    train, test = read_instance_splits(tmp_path / "coco")
    assert test.open(1).size == (64, 48) and not test.lvis
    train, test = read_instance_splits(tmp_path / "lvis")
    assert test.lvis and test.keys[0] == "train2017/1.jpg" and train.open(0).size == (64, 48)


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("images", "file_name", 7, r"images\[1\]: `file_name` is 7; it must be a text that is not empty"),
        ("images", "file_name", None, r"images\[1\]: `file_name` is missing or null"),
        ("images", "file_name", ["a"], r"images\[1\]: `file_name` is \['a'\]"),
        ("images", "id", "2", r"images\[1\]: `id` is '2'; it must be an integer of at least 0"),
        ("images", "width", 0, r"images\[1\]: `width` is 0; it must be an integer of at least 1"),
        ("images", "height", 10**9, r"images\[1\]: has 64 x 1000000000 pixels; the limit is"),
        ("categories", "id", None, r"categories\[1\]: `id` is missing or null"),
        ("annotations", "image_id", [1], r"annotations\[1\]: `image_id` is \[1\]; it must be an integer"),
        ("annotations", "category_id", {}, r"annotations\[1\]: `category_id` is {}; it must be an integer"),
        ("annotations", "bbox", [1, 2, "3", 4], r"annotations\[1\]: `bbox` is \[1, 2, '3', 4\]; it must be \[left"),
        ("annotations", "bbox", [1, 2, 3], r"annotations\[1\]: `bbox` is \[1, 2, 3\]"),
        ("annotations", "bbox", [0, 0, 1, float("nan")], r"annotations\[1\]: `bbox` is \[0, 0, 1, nan\]"),
        ("annotations", "iscrowd", "no", r"annotations\[1\]: `iscrowd` is 'no'; it must be 0 or 1"),
        ("annotations", "area", "big", r"annotations\[1\]: `area` is 'big'; it must be a number of pixels"),
        ("annotations", "segmentation", [[1, 2, 3]], r"annotations\[1\]: `segmentation` is \[\[1, 2, 3\]\]; it must"),
        ("annotations", "segmentation", {"size": [9, 9], "counts": "0"}, r"and the `size` of the image, \[48, 64\]"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, part: str, field: str, value: Any, said: str) -> None:
    content, _ = described(3)
    content[part][1][field] = value
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"annotations\.json: " + said if "size" not in said else said):
        read_instances(tmp_path / "annotations.json", tmp_path)


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    content, _ = described(2)
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": "zzzz~~~@@@"}
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"1\.jpg: the mask of annotation 1 cannot be decoded"):
        read_instances(tmp_path / "annotations.json", tmp_path).instances(0)


def test_annotations_are_chosen_by_their_file(tmp_path: Path) -> None:
    said, samples = described(2)
    (tmp_path / "annotations").mkdir()
    for stem, categories in (("instances_{}2017", said["categories"]), ("lvis_v1_{}", [{"id": 9, "name": "x"}])):
        for split in ("train", "val"):
            file = tmp_path / "annotations" / f"{stem.format(split)}.json"
            annotations = [{**each, "category_id": categories[0]["id"]} for each in said["annotations"]]
            file.write_text(json.dumps({**said, "annotations": annotations, "categories": categories}), "utf-8")
            (tmp_path / f"{split}2017").mkdir(exist_ok=True)
            for number, image in enumerate(samples, start=1):
                (tmp_path / f"{split}2017" / f"{number}.jpg").write_bytes(png(image))
    with pytest.raises(DataError, match=r"several annotations; give one of .*_val2017.json, .*lvis_v1_val.json"):
        read_instance_splits(tmp_path)
    train, test = read_instance_splits(tmp_path / "annotations" / "lvis_v1_val.json")
    assert [each["id"] for each in test.categories] == [9] and train.name.endswith("lvis_v1_train")
    assert train.open(0).size == test.open(0).size == (64, 48)
    with pytest.raises(DataError, match="give the annotations of val, beside those of train"):
        read_instance_splits(tmp_path / "annotations" / "lvis_v1_train.json")


def test_categories_of_both_sets_are_the_same(tmp_path: Path) -> None:
    place = write_instances(tmp_path, {"train": 2, "test": 1})
    file = place / "test" / "instances.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"blue"', '"navy"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"different categories, first \(9, 'blue'\) and \(9, 'navy'\)"):
        read_instance_splits(place)
    said = json.loads(text)
    file.write_text(json.dumps({**said, "categories": said["categories"] + [{"id": 11}]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"first None and \(11, None\)"):
        read_instance_splits(place)


def test_the_coco_subset(real_data: Path) -> None:
    train, test = read_instance_splits(real_data / "coco")
    assert len(train.keys) == 15 and len(test.keys) == 10 and not test.has_masks
    assert train.instances(0).boxes.shape[1] == 4
