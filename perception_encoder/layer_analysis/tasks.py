"""The tasks that layers are asked, by name, and how each is made of a place of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.classified import has_labels
from perception_encoder.datasets.image_set import ImageSet, keep_trained
from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.datasets.labelled import HeldOut
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import MILLIMETRES, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator, DetectionProtocol
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingConfig, TrackingEvaluator
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.layer_analysis.caption_task import load_caption_task
from perception_encoder.layer_analysis.dense_tasks import DenseTask
from perception_encoder.layer_analysis.labelled_tasks import (
    ClassificationTask,
    LabelledConfig,
    RetrievalTask,
    load_labels,
)
from perception_encoder.layer_analysis.layer_task import LayerScore, LayerTask
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.preprocess.frames import spread_indices

Maker = Callable[[Path, int], LayerTask]
"""A place and how many items at most are measured, to a task; DataError where the place lacks what it needs."""

Part = TypeVar("Part", bound=ImageSet)

SHORT_SIDE = 240
"""Default pixels of the short side of videos' frames, a seventh of the cost of DAVIS's 480."""


@lru_cache(maxsize=1)
def _labels(path: Path, items: int, held_out: HeldOut | None) -> Splits:
    """Read once for the two tasks of labels; `test` is evaluated, or `val` without a labelled `test`."""
    split = "test" if has_labels(path, "test") else "val"
    return load_labels(path, LabelledConfig(items=items), split, held_out)


def _classification(path: Path, items: int, held_out: HeldOut | None = None) -> LayerTask:
    return ClassificationTask(_labels(path, items, held_out), LabelledConfig(items=items))


def _retrieval(path: Path, items: int, held_out: HeldOut | None = None) -> LayerTask:
    return RetrievalTask(_labels(path, items, held_out).test)


def _tracking(path: Path, items: int) -> LayerTask:
    return DenseTask(TrackingEvaluator(read_videos(path), TrackingConfig(short_side=SHORT_SIDE)))


def _depth(path: Path, items: int, per_metre: float = MILLIMETRES) -> LayerTask:
    protocol = DepthProtocol(head=DepthConfig(channels=32))
    return DenseTask(DepthEvaluator(*_thin(read_depth_splits(path, per_metre), items), protocol))


def _relative_depth(path: Path, items: int, per_metre: float = MILLIMETRES) -> LayerTask:
    protocol = DepthProtocol(head=DepthConfig(channels=32).relative(), aligned=True)
    parts = _thin(read_depth_splits(path, per_metre), items)
    return DenseTask(DepthEvaluator(*parts, protocol, name="relative-depth"))


def _segmentation(path: Path, items: int) -> LayerTask:
    return DenseTask(SegmentationEvaluator(*_thin(read_class_splits(path), items)))


def _foreground(path: Path, items: int) -> LayerTask:
    return DenseTask(SegmentationEvaluator(*_thin(read_class_splits(path, any_class=True), items), name="foreground"))


def _detector(train: InstanceSet, test: InstanceSet, name: str = "detection") -> LayerTask:
    """A detector smaller than for published results, for every layer pays for it."""
    fit = FitConfig(epochs=8, batch=8, weight_decay=0.05)
    protocol = DetectionProtocol(head=DetectionConfig(channels=64, hidden=256, regions=128, fit=fit))
    return DenseTask(DetectionEvaluator(train, test, protocol, name=name))


def _detection(path: Path, items: int) -> LayerTask:
    return _detector(*keep_trained(*_thin(read_instance_splits(path), items)))


def _objects(path: Path, items: int) -> LayerTask:
    train, test = _thin(read_instance_splits(path), items)
    return _detector(train.merge_classes(), test.merge_classes(), "objects")


def _thin(splits: tuple[Part, Part], items: int) -> tuple[Part, Part]:
    """At most `items` pictures to be measured and twice as many to train on, evenly apart in the order of their names.

    Names are often those of places or times, so that the first ones would be of one kind.
    """
    train, test = (
        part.select(spread_indices(len(part.keys), min(len(part.keys), count)))
        for part, count in zip(splits, (2 * items, items), strict=True)
    )
    return train, test


DEPTHS = {"depth": _depth, "relative-depth": _relative_depth}
LABELS = {"classification": _classification, "retrieval": _retrieval}
TASKS: Mapping[str, Maker] = {
    **LABELS,
    "segmentation": _segmentation,
    "foreground": _foreground,
    **DEPTHS,
    "tracking": _tracking,
    "detection": _detection,
    "objects": _objects,
    "captions": load_caption_task,
}
"""Makers by name."""


class SizedTask:
    """A task whose pictures are encoded at another size than the encoder's own."""

    def __init__(self, task: LayerTask, image_size: tuple[int, int]) -> None:
        """`image_size`: height and width; features, and so figures, are kept under it."""
        self.task, self.image_size = task, image_size
        self.name, self.digest = task.name, task.digest

    @property
    def failures(self) -> Sequence[InputError]:
        """Those of the task."""
        return self.task.failures

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """Those of the task, at the size."""
        return [replace(images, image_size=self.image_size) for images in self.task.images(encoder)]

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """As the task does."""
        return self.task.measure(features)


def _at_size(task: LayerTask, image_size: tuple[int, int] | None, short_side: int) -> LayerTask:
    if isinstance(task, DenseTask) and isinstance(task.evaluator, TrackingEvaluator):
        config = replace(task.evaluator.config, short_side=short_side)
        return DenseTask(TrackingEvaluator(task.evaluator.videos, config))
    return task if image_size is None else SizedTask(task, image_size)


def make_tasks(
    names: list[str],
    places: Mapping[str, Path],
    everywhere: Path | None,
    items: int,
    image_size: tuple[int, int] | None = None,
    short_side: int = SHORT_SIDE,
    per_metre: float = MILLIMETRES,
    held_out: HeldOut | None = None,
) -> list[LayerTask]:
    """The tasks of these names, each of its own place or of the one that is for all; `per_metre`: of stored depths.

    `image_size`: height and width of still pictures, by default the encoder's own; `short_side`: of videos' frames;
    `held_out`: classes to leave out of labelled shards.
    Raises ConfigError for a name that there is not and a place whose task is not asked, DataError for a task without a
    place and where a place lacks what its task needs.
    """
    for name in (*names, *places):
        if name not in TASKS:
            raise ConfigError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    for name in places:
        if name not in names:
            raise ConfigError(f"data are given for {name}, which is not among the tasks; add it to --tasks")
    makers: Mapping[str, Maker] = {
        **TASKS,
        **{name: partial(make, per_metre=per_metre) for name, make in DEPTHS.items()},
        **{name: partial(make, held_out=held_out) for name, make in LABELS.items()},
    }
    tasks = []
    for name in dict.fromkeys(names):
        place = places.get(name, everywhere)
        if place is None:
            raise DataError(f"{name} has no data; give --data {name}=PLACE")
        if not place.exists():
            raise DataError(f"{name}: {place} does not exist")
        try:
            tasks.append(_at_size(makers[name](place, items), image_size, short_side))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return tasks
