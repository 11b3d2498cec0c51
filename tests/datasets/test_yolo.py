"""Objects in YOLO's format: the same as in COCO's, in the layouts that annotation tools write, and what is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.errors import DataError, InputError
from tests.datasets.drawn import write_instances, write_yolo

pytest.importorskip("faster_coco_eval")
COUNTS = {"train": 3, "val": 2}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("name", ["", "data.yaml"])
def test_objects_are_those_of_cocos_format(tmp_path: Path, masks: bool, name: str) -> None:
    write_instances(tmp_path / "coco", {"train": 3, "test": 2}, masks)
    write_yolo(tmp_path / "yolo", COUNTS, masks)
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
    file = write_yolo(tmp_path / "a", COUNTS, masks=False)
    expected = [part.annotations for part in read_instance_splits(file)]
    for split in COUNTS:
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
        ("data.yaml", "train: images/train\nval: images/val\n", "`names` is missing or null; it must list the classes"),
        ("data.yaml", "names: {a: 1}\ntrain: images/train\n", "`names` has 'a': 1; it must have a number and a name"),
        ("data.yaml", "names: [a, b]\ntrain: images/train\n", "`test` is missing or null; it must be a directory"),
        ("data.yaml", "names: [a]\ntrain: images/x\n", "`train` is 'images/x', which does not exist in"),
        ("data.yaml", "names: [a, b]\ntrain: images/train\nval: data.yaml\n", "data.yaml: line 1: 'names: [a, b]'"),
        ("labels/val/1.txt", "0 0.5 0.5 0.1\n", "1.txt: line 1: is '0 0.5 0.5 0.1'; it must be a class, and 4 numbers"),
        ("labels/val/1.txt", "red 0.5 0.5 0.1 0.1\n", "it must be a class"),
        ("labels/val/1.txt", "2 0.5 0.5 0.1 0.1\n", "1.txt: line 1: class 2 is not in `names` of"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    data = write_yolo(tmp_path, COUNTS)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError) as caught:
        read_instance_splits(data)
    assert message in str(caught.value)
