"""The tasks that layers are asked, by name, and how each is made of a place of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from perception_encoder.data.masked_videos import read_videos
from perception_encoder.data.rgbd import read_depth_splits
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.layer_task import LayerTask
from perception_encoder.layer_analysis.dense_tasks import DepthTask, TrackingTask
from perception_encoder.layer_analysis.labelled_tasks import (
    ClassificationTask,
    LabelledConfig,
    RetrievalTask,
    load_labels,
)

Maker = Callable[[Path, int], LayerTask]
"""A place and how many items at most are measured, to a task; DataError where the place lacks what it needs."""


def _classification(place: Path, items: int) -> LayerTask:
    config = LabelledConfig(items=items)
    return ClassificationTask(load_labels(place, config), config)


def _retrieval(place: Path, items: int) -> LayerTask:
    return RetrievalTask(load_labels(place, LabelledConfig(items=items)).test)


def _tracking(place: Path, items: int) -> LayerTask:
    return TrackingTask(read_videos(place))


def _depth(place: Path, items: int) -> LayerTask:
    train, test = read_depth_splits(place)
    return DepthTask(train=train.some(slice(0, 2 * items)), test=test.some(slice(0, items)))


TASKS: Mapping[str, Maker] = {
    "classification": _classification,
    "retrieval": _retrieval,
    "tracking": _tracking,
    "depth": _depth,
}
"""Makers by name."""


def make_tasks(names: list[str], places: Mapping[str, Path], everywhere: Path | None, items: int) -> list[LayerTask]:
    """The tasks of these names, each of its own place or of the one that is for all.

    Raises ConfigError for a name that there is not and a place whose task is not asked, DataError for a task without a
    place and where a place lacks what its task needs.
    """
    for name in (*names, *places):
        if name not in TASKS:
            raise ConfigError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    for name in places:
        if name not in names:
            raise ConfigError(f"data are given for {name}, which is not among the tasks; add it to --tasks")
    tasks = []
    for name in dict.fromkeys(names):
        place = places.get(name, everywhere)
        if place is None:
            raise DataError(f"{name} has no data; give --data {name}=PLACE")
        if not place.exists():
            raise DataError(f"{name}: {place} does not exist")
        try:
            tasks.append(TASKS[name](place, items))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return tasks
