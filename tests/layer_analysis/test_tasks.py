"""Tasks made of places: which pictures are taken of many, and what becomes of classes that are lost by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import UNSCORED
from perception_encoder.formats.shards import write_members
from perception_encoder.layer_analysis.dense_tasks import DenseTask
from perception_encoder.layer_analysis.tasks import make_tasks
from tests.evaluation.layers import png

PICTURE = png(np.zeros((2, 2, 3), np.uint8))
KINDS = {"train": ["chair", "chair", "lamp", "chair", "chair"], "test": ["chair", "chair", "lamp"]}
"""Of five pictures four are trained on, the third is not; of three the first and the last are measured."""


def test_pictures_are_taken_evenly_apart(tmp_path: Path) -> None:
    depth = png(np.full((2, 2), 5000, np.uint16))
    members = [
        (f"{n:02}.{kind}", content) for n in range(20) for kind, content in (("jpg", PICTURE), ("depth.png", depth))
    ]
    write_members(tmp_path / "room.tar", members)
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", 2, per_metre=5000)
    task = cast(DenseTask, task).evaluator
    assert task.train.keys == ("00", "04", "07", "11") and task.test.keys == ("12", "19")
    assert task.train.depth(1).tolist() == [[1, 1], [1, 1]]
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", 50)
    assert len(cast(DenseTask, task).evaluator.train.keys) == 12


def test_classes_lost_from_training_are_not_scored(tmp_path: Path) -> None:
    for split, kinds in KINDS.items():
        members = []
        for row, kind in enumerate(kinds):
            about = {"objects": [{"id": 1, "kind": "chair"}, {"id": 2, "kind": kind}]}
            mask = png(np.array([[0, 1], [2, 2]], np.uint8))
            parts = (("jpg", PICTURE), ("mask.png", mask), ("json", json.dumps(about).encode()))
            members += [(f"{row}.{extension}", content) for extension, content in parts]
        write_members(tmp_path / split / "00000.tar", members)
    (task,) = make_tasks(["segmentation"], {}, tmp_path, 2)
    task = cast(DenseTask, task).evaluator
    assert task.train.keys == ("0", "1", "3", "4") and task.test.keys == ("0", "2")
    assert task.train.classes == task.test.classes == ("background", "chair")
    assert task.test.labels(1).tolist() == [[0, 1], [UNSCORED, UNSCORED]]
    (task,) = make_tasks(["segmentation"], {}, tmp_path, 3)
    assert cast(DenseTask, task).evaluator.test.classes == ("background", "chair", "lamp")


def test_categories_lost_from_training_are_not_asked(tmp_path: Path) -> None:
    numbers = {"chair": 4, "lamp": 9}
    for split, kinds in KINDS.items():
        said = {
            "images": [{"id": row, "file_name": f"{row}.jpg", "width": 2, "height": 2} for row in range(len(kinds))],
            "annotations": [
                {"id": 2 * row + place, "image_id": row, "category_id": numbers[each], "bbox": [0, 0, 1, 1]}
                for row, kind in enumerate(kinds)
                for place, each in enumerate(("chair", kind))
            ],
            "categories": [{"id": number, "name": kind} for kind, number in numbers.items()],
        }
        write_members(tmp_path / split / "00000.tar", [(f"{row}.jpg", PICTURE) for row in range(len(kinds))])
        (tmp_path / split / "instances.json").write_text(json.dumps(said), encoding="utf-8")
    (task,) = make_tasks(["detection"], {}, tmp_path, 2)
    task = cast(DenseTask, task).evaluator
    assert task.train.keys == ("0.jpg", "1.jpg", "3.jpg", "4.jpg") and task.test.keys == ("0.jpg", "2.jpg")
    assert [[each["name"] for each in part.categories] for part in (task.train, task.test)] == [["chair"]] * 2
    assert task.test.instances(1).labels.tolist() == [1] and task.test.instances(0).labels.tolist() == [1, 1]
    (task,) = make_tasks(["detection"], {}, tmp_path, 3)
    assert cast(DenseTask, task).evaluator.test.instances(2).labels.tolist() == [1, 2]
    (task,) = make_tasks(["objects"], {}, tmp_path, 2)  # of any kind
    assert task.name == "objects" and cast(DenseTask, task).evaluator.test.instances(1).labels.tolist() == [1, 1]


@pytest.mark.parametrize("items", [1, 2])
def test_few_pictures_are_taken_whole(items: int, tmp_path: Path) -> None:
    depth = png(np.full((2, 2), 1000, np.uint16))
    members = [(f"{n}.{kind}", content) for n in range(2) for kind, content in (("jpg", PICTURE), ("depth.png", depth))]
    write_members(tmp_path / "room.tar", members)
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", items)
    assert cast(DenseTask, task).evaluator.train.keys == ("0",) and cast(DenseTask, task).evaluator.test.keys == ("1",)
