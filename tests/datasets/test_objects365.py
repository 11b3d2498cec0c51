"""Objects365 in its published layout and in others that are common, and its known gaps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.datasets.instances import UNPUBLISHED, objects365_files, read_instance_splits, without_gaps
from perception_encoder.errors import DataError
from tests.datasets.drawn import write_objects365

COUNTS = {"train": 4, "val": 2}


@pytest.mark.parametrize(
    ("directory", "parts"),
    [("{split}", 2), ("{split}", 4), ("{split}", 3), ("images/{split}", 2), ("images/{split}", 1), (".", 4)],
)
def test_images_are_found_where_they_are_usual(tmp_path: Path, directory: str, parts: int) -> None:
    train, test = read_instance_splits(write_objects365(tmp_path, COUNTS, directory, parts))
    assert (len(train.keys), len(test.keys)) == (4, 2) and not train.has_masks and not train.lvis
    assert train.keys[1] == "images/v1/patch8/objects365_v1_00000001.jpg"
    assert all(part.open(row).size == (64, 48) for part in (train, test) for row in range(len(part.keys)))
    assert train.instances(1).masks is None and len(train.instances(1).boxes) == 1
    assert [each["name"] for each in test.categories] == ["red", "blue"]


def test_annotations_may_lie_beside_the_images_or_be_named(tmp_path: Path) -> None:
    path = write_objects365(tmp_path, COUNTS)
    train, test = read_instance_splits(path / "annotations" / "zhiyuan_objv2_val.json")
    assert train.open(0).size == test.open(0).size == (64, 48)
    for split in COUNTS:
        name = f"zhiyuan_objv2_{split}.json"
        (path / "annotations" / name).rename(path / split / name)
    assert read_instance_splits(path)[1].keys == test.keys
    for split in COUNTS:
        (path / split / f"zhiyuan_objv2_{split}.json").rename(path / f"zhiyuan_objv2_{split}.json")
    assert set(objects365_files(path)) == set(COUNTS) and read_instance_splits(path)[1].keys == test.keys


def test_known_gaps_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_objects365(tmp_path, COUNTS)
    file = path / "annotations" / "zhiyuan_objv2_train.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for row, name in enumerate(UNPUBLISHED):
        content["images"].append({**content["images"][0], "id": 90 + row, "file_name": f"images/v1/patch6/{name}"})
        content["annotations"].append({**content["annotations"][0], "id": 90 + row, "image_id": 90 + row})
    content["annotations"].append({**content["annotations"][0], "id": 99, "bbox": [70, 3, 9, 9]})
    content["categories"][0]["name"] = "rde"
    file.write_text(json.dumps(content), encoding="utf-8")
    train, test = read_instance_splits(path)
    assert len(train.keys) == 4 and train.categories == test.categories
    assert sorted(each["id"] for some in train.annotations.values() for each in some) == [1, 2, 3, 4, 5, 6]
    assert f"{file}: boxes outside their image: 1; they are left out" in caplog.messages


def test_other_gaps_are_errors(tmp_path: Path) -> None:
    path = write_objects365(tmp_path, COUNTS)
    missing = next((path / "train").rglob("objects365_v2_*.jpg"))
    missing.unlink()
    with pytest.raises(DataError, match=rf"zhiyuan_objv2_train\.json: the image '.*{missing.name}' does not exist"):
        read_instance_splits(path)
    (path / "annotations" / "zhiyuan_objv2_val.json").unlink()
    assert objects365_files(path) == {}
    assert without_gaps({"images": 7, "annotations": []}, "a") == {"images": 7, "annotations": []}
    damaged = {"images": [{}, 3, {"id": []}], "annotations": [{}, 3, {"image_id": [], "bbox": [1]}]}
    assert without_gaps(damaged, "a") == damaged
