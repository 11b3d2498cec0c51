"""The tasks of the layers in small have the sizes and classes that they should, and missing data are errors."""

from __future__ import annotations

from experiments.layers.tasks import LayerData, Sizes, make_layer_tasks
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator


class UnusedEncoder:
    """What tasks know of a model before anything is encoded."""

    name, depth, patch_size, image_size = "unused", 1, 16, (32, 32)


def test_tasks_are_cut_to_size(data: LayerData) -> None:
    tasks = {
        task.name: task for task in make_layer_tasks(data, Sizes(photos=6, scenes=2, rooms=2, clips=3, captions=3))
    }
    assert list(tasks) == [
        "classification",
        "retrieval",
        "segmentation",
        "depth of scenes",
        "depth of rooms",
        "tracking",
        "captions",
    ]
    images = {name: task.images(UnusedEncoder()) for name, task in tasks.items()}
    counts = {name: [len(part.keys) for part in parts] for name, parts in images.items()}
    assert counts["depth of scenes"] == counts["segmentation"] == [4, 2]
    assert counts["captions"] == counts["tracking"] == [3]
    assert counts["depth of rooms"] == [3, 2] and counts["retrieval"] == [6]
    shapes = {name: {part.image_size for part in parts} for name, parts in images.items()}
    assert shapes["segmentation"] == shapes["depth of rooms"] == {(128, 128)} != shapes["classification"]


def test_segmentation_is_of_objects_and_background(data: LayerData) -> None:
    (task,) = (item for item in make_layer_tasks(data, Sizes()) if isinstance(item, SegmentationEvaluator))
    assert task.train.classes == task.test.classes == ("background", "object")
    lamp = task.test.labels(1)  # of a class that no training image shows
    assert lamp[0, 0] == 0 and lamp[8, 8] == 1 and lamp.sum() == 64
