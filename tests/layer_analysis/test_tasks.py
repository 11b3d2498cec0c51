"""Tasks made of paths: which of many images are taken, and classes that are lost by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from perception_encoder.datasets.class_masks import UNSCORED
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import CachingLayers
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.formats.shards import write_members
from perception_encoder.layer_analysis.tasks import TaskOptions, make_tasks
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import PATCH, SIDE

IMAGE = png(np.zeros((2, 2, 3), np.uint8))
NUMBERS = {"chair": 1, "lamp": 2}
KINDS = {"train": ["chair", "chair", "lamp", "chair", "chair"], "test": ["chair", "chair", "lamp"]}
"""Of five images four are trained on, without the third; of three the first and the last are tested on."""


def test_images_are_taken_at_even_intervals(tmp_path: Path) -> None:
    depth = png(np.full((2, 2), 5000, np.uint16))
    members = [
        (f"{n:02}.{kind}", content) for n in range(20) for kind, content in (("jpg", IMAGE), ("depth.png", depth))
    ]
    write_members(tmp_path / "room.tar", members)
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", TaskOptions(items=2, per_metre=5000)).values()
    assert task.train.keys == ("00", "04", "07", "11") and task.test.keys == ("12", "19")
    assert task.train.depth(1).tolist() == [[1, 1], [1, 1]]
    (task,) = make_tasks(["depth"], {}, tmp_path / "room.tar", TaskOptions(items=50)).values()
    assert len(task.train.keys) == 12


def test_classes_lost_from_training_are_not_scored(tmp_path: Path) -> None:
    for split, kinds in KINDS.items():
        for row, kind in enumerate(kinds):
            mask = png(np.array([[0, 1], [NUMBERS[kind]] * 2], np.uint8))
            for directory, content in (("images", IMAGE), ("masks", mask)):
                (tmp_path / split / directory).mkdir(parents=True, exist_ok=True)
                (tmp_path / split / directory / f"{row}.png").write_bytes(content)
    (tmp_path / "classes.txt").write_text("background\nchair\nlamp\n", encoding="utf-8")
    (task,) = make_tasks(["segmentation"], {}, tmp_path, TaskOptions(items=2)).values()
    assert task.train.keys == ("0", "1", "3", "4") and task.test.keys == ("0", "2")
    assert task.train.classes == task.test.classes == ("background", "chair")
    assert task.test.labels(1).tolist() == [[0, 1], [UNSCORED, UNSCORED]]
    (task,) = make_tasks(["segmentation"], {}, tmp_path, TaskOptions(items=3)).values()
    assert task.test.classes == ("background", "chair", "lamp")


def test_categories_lost_from_training_are_not_scored(tmp_path: Path) -> None:
    numbers = {"chair": 4, "lamp": 9}
    for split, kinds in KINDS.items():
        instances = {
            "images": [{"id": row, "file_name": f"{row}.jpg", "width": 2, "height": 2} for row in range(len(kinds))],
            "annotations": [
                {"id": 2 * row + index, "image_id": row, "category_id": numbers[item], "bbox": [0, 0, 1, 1]}
                for row, kind in enumerate(kinds)
                for index, item in enumerate(("chair", kind))
            ],
            "categories": [{"id": number, "name": kind} for kind, number in numbers.items()],
        }
        write_members(tmp_path / split / "00000.tar", [(f"{row}.jpg", IMAGE) for row in range(len(kinds))])
        (tmp_path / split / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (task,) = make_tasks(["detection"], {}, tmp_path, TaskOptions(items=2)).values()
    assert task.train.keys == ("0.jpg", "1.jpg", "3.jpg", "4.jpg") and task.test.keys == ("0.jpg", "2.jpg")
    assert [[category["name"] for category in part.categories] for part in (task.train, task.test)] == [["chair"]] * 2
    assert task.test.instances(1).labels.tolist() == [1] and task.test.instances(0).labels.tolist() == [1, 1]
    (task,) = make_tasks(["detection"], {}, tmp_path, TaskOptions(items=3)).values()
    assert task.test.instances(2).labels.tolist() == [1, 2]


def test_images_and_frames_have_the_size_that_is_set(tmp_path: Path) -> None:
    write_video(tmp_path / "one.tar", *discs())
    asked: list[tuple[int, int] | None] = []

    class Asked(CachingLayers):
        patch_size, image_size = PATCH, (SIDE, SIDE)

        def score(self, inputs: Sequence[EncoderInputs], *_: object) -> Iterator[Score]:
            asked.extend(images.image_size for images in inputs)
            yield from ()

    depth = png(np.full((2, 2), 1000, np.uint16))
    members = [(f"{n}.{kind}", content) for n in range(5) for kind, content in (("jpg", IMAGE), ("depth.png", depth))]
    write_members(tmp_path / "room.tar", members)
    paths = {"tracking": tmp_path / "one.tar", "depth": tmp_path / "room.tar"}
    tasks = make_tasks(list(paths), paths, None, TaskOptions(image_size=(8, 12), short_side=24))
    for task in tasks.values():
        list(task.run(Asked.__new__(Asked)))
    assert asked == [(24, 32), (8, 12), (8, 12)]
