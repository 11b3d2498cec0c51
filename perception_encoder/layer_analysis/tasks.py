"""The tasks that layers are asked, by name, and how each is made of a place of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from perception_encoder.datasets.class_masks import ClassMasks, read_class_splits, read_things
from perception_encoder.datasets.classified import has_labels
from perception_encoder.datasets.instances import InstanceSet, forget_kinds, keep_trained, read_instance_splits
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import MILLIMETRES, DepthPictures, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.dense.depth import DepthProtocol
from perception_encoder.evaluation.layer_task import LayerFeatures, LayerPictures, LayerScore, LayerTask
from perception_encoder.layer_analysis.caption_task import load_caption_task
from perception_encoder.layer_analysis.dense_tasks import (
    SHORT_SIDE,
    DepthTask,
    DetectionTask,
    SegmentationTask,
    TrackingTask,
)
from perception_encoder.layer_analysis.labelled_tasks import (
    ClassificationTask,
    LabelledConfig,
    RetrievalTask,
    load_labels,
)
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.preprocess.frames import spread_indices

Maker = Callable[[Path, int], LayerTask]
"""A place and how many items at most are measured, to a task; DataError where the place lacks what it needs."""

Part = TypeVar("Part", DepthPictures, ClassMasks, InstanceSet)


@lru_cache(maxsize=1)
def _labels(place: Path, items: int) -> Splits:
    """Read once for the two tasks of labels; measured is `test`, or `val` where there is no labelled `test`."""
    return load_labels(place, LabelledConfig(items=items), "test" if has_labels(place, "test") else "val")


def _classification(place: Path, items: int) -> LayerTask:
    return ClassificationTask(_labels(place, items), LabelledConfig(items=items))


def _retrieval(place: Path, items: int) -> LayerTask:
    return RetrievalTask(_labels(place, items).test)


def _tracking(place: Path, items: int) -> LayerTask:
    return TrackingTask(read_videos(place))


def _depth(place: Path, items: int, per_metre: float = MILLIMETRES) -> LayerTask:
    return DepthTask(*_thin(read_depth_splits(place, per_metre), items))


def _relative_depth(place: Path, items: int, per_metre: float = MILLIMETRES) -> LayerTask:
    protocol = DepthProtocol(head=DepthConfig(channels=32).relative(), aligned=True)
    return DepthTask(*_thin(read_depth_splits(place, per_metre), items), protocol, "relative-depth")


def _segmentation(place: Path, items: int) -> LayerTask:
    return SegmentationTask(*_thin(read_class_splits(place), items))


def _foreground(place: Path, items: int) -> LayerTask:
    return SegmentationTask(*_thin(read_things(place), items), name="foreground")


def _detection(place: Path, items: int) -> LayerTask:
    return DetectionTask(*keep_trained(*_thin(read_instance_splits(place), items)))


def _objects(place: Path, items: int) -> LayerTask:
    train, test = (forget_kinds(part) for part in _thin(read_instance_splits(place), items))
    return DetectionTask(train, test, name="objects")


def _thin(splits: tuple[Part, Part], items: int) -> tuple[Part, Part]:
    """At most `items` pictures to be measured and twice as many to train on, evenly apart in the order of their names.

    Names are often those of places or times, so that the first ones would be of one kind.
    """
    train, test = (
        part.some(spread_indices(len(part.keys), min(len(part.keys), count)))
        for part, count in zip(splits, (2 * items, items), strict=True)
    )
    return train, test


DEPTHS = {"depth": _depth, "relative-depth": _relative_depth}
TASKS: Mapping[str, Maker] = {
    "classification": _classification,
    "retrieval": _retrieval,
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

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """Those of the task, at the size."""
        return [replace(pictures, image_size=self.image_size) for pictures in self.task.pictures(encoder)]

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """As the task does."""
        return self.task.measure(features)


def _at_size(task: LayerTask, image_size: tuple[int, int] | None, short_side: int) -> LayerTask:
    if isinstance(task, TrackingTask):
        return TrackingTask(task.videos, replace(task.config, short_side=short_side))
    return task if image_size is None else SizedTask(task, image_size)


def make_tasks(
    names: list[str],
    places: Mapping[str, Path],
    everywhere: Path | None,
    items: int,
    image_size: tuple[int, int] | None = None,
    short_side: int = SHORT_SIDE,
    per_metre: float = MILLIMETRES,
) -> list[LayerTask]:
    """The tasks of these names, each of its own place or of the one that is for all; `per_metre`: of stored depths.

    `image_size`: height and width of still pictures, by default the encoder's own; `short_side`: of videos' frames.
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
