"""The tasks of the layers in small have the sizes and classes that they should, and missing data are errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.layers.tasks import LayerData, Sizes, make_layer_tasks
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import CachingLayers
from perception_encoder.evaluation.statistics.scores import Score


class Asked(CachingLayers):
    """A model that is asked for images, and encodes nothing."""

    name, depth, patch_size, image_size = "unused", 1, 16, (32, 32)

    def __init__(self) -> None:
        self.inputs: list[EncoderInputs] = []

    def score(self, inputs: Sequence[EncoderInputs], *_: object) -> Iterator[Score]:
        self.inputs += inputs
        yield from ()


def inputs_of(task: Any) -> list[EncoderInputs]:
    model = Asked()
    list(task.run(model))
    return model.inputs


def test_tasks_are_cut_to_size(data: LayerData) -> None:
    tasks = make_layer_tasks(data, Sizes(photos=6, scenes=2, rooms=2, clips=3, captions=3))
    assert list(tasks) == [
        "classification",
        "retrieval",
        "segmentation",
        "depth of scenes",
        "depth of rooms",
        "tracking",
        "captions",
    ]
    images = {name: inputs_of(task) for name, task in tasks.items()}
    counts = {name: [len(part.keys) for part in parts] for name, parts in images.items()}
    assert counts["depth of scenes"] == counts["segmentation"] == [4, 2]
    assert counts["captions"] == counts["tracking"] == [3]
    assert counts["depth of rooms"] == [3, 2] and counts["retrieval"] == [6]
    shapes = {name: {part.image_size for part in parts} for name, parts in images.items()}
    assert shapes["segmentation"] == shapes["depth of rooms"] == {(128, 128)} != shapes["classification"]


def test_segmentation_is_of_objects_and_background(data: LayerData) -> None:
    task: Any = make_layer_tasks(data, Sizes())["segmentation"]
    assert task.train.classes == task.test.classes == ("background", "object")
    lamp = task.test.labels(1)  # of a class that no training image shows
    assert lamp[0, 0] == 0 and lamp[8, 8] == 1 and lamp.sum() == 64
