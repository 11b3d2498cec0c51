"""Read a task's dataset by the task's name, and create the evaluator that scores layers on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.image_set import ImageSet, keep_trained
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import MILLIMETRES, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.results import Evaluator
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis.labelled_tasks import (
    ClassificationTask,
    LabelledConfig,
    RetrievalTask,
    read_label_splits,
)
from perception_encoder.preprocess.frames import spread_indices

TASKS = ("classification", "retrieval", "segmentation", "depth", "tracking", "detection")
DEPTH_HEAD = DepthConfig(channels=32)
DETECTION = DetectionConfig(channels=64, hidden=256, regions=128, fit=FitConfig(epochs=8, batch=8, weight_decay=0.05))
"""Smaller heads than for published scores, as one is fitted for every layer."""

AnySet = TypeVar("AnySet", bound=ImageSet)
LayerTask = Evaluator[LayerFeatures]
ReadTask = Callable[[Path, int, tuple[int, int] | None], LayerTask]
"""Reads a task from a path, with a maximum number of test images and their height and width."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of all tasks."""

    items: int = 1000
    """Maximum number of test images of a task; heads are fitted on twice as many."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize images to; by default the encoder's."""
    short_side: int = 240
    """Short side of videos' frames in pixels; costs a seventh of DAVIS's 480."""
    per_metre: float = MILLIMETRES
    """Depth units per metre in the files."""


def make_tasks(
    names: Sequence[str],
    paths: Mapping[str, Path],
    default: Path | None,
    options: TaskOptions | None = None,
    others: Mapping[str, ReadTask] | None = None,
) -> dict[str, LayerTask]:
    """Read the named tasks, by name, each from its own path or the default one; `others`: additional tasks by name.

    Raises ConfigError for an unknown name and for a path whose task is not among them, DataError for a task without a
    path and for a path without what its task needs.
    """
    others, options = others or {}, options or TaskOptions()
    known = (*TASKS, *others)
    if unknown := [name for name in (*names, *paths) if name not in known]:
        raise ConfigError(f"the task {unknown[0]!r} is unknown; the tasks are {', '.join(known)}")
    if unused := [name for name in paths if name not in names]:
        raise ConfigError(f"--data is given for {unused[0]}, which is not among the tasks; add it to --tasks")
    tasks: dict[str, LayerTask] = {}
    read_labels = cache(read_label_splits)  # several tasks read the same ones
    for name in dict.fromkeys(names):
        path = paths.get(name, default)
        if path is None:
            raise DataError(f"{name} has no data; give --data {name}=PATH")
        try:
            if name in others:
                tasks[name] = others[name](path, options.items, options.image_size)
            else:
                tasks[name] = make_task(name, path, options, read_labels)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return tasks


def make_task(
    name: str, path: Path, options: TaskOptions, read_labels: Callable[[Path, int], Splits] = read_label_splits
) -> LayerTask:
    """Read a task from a path; DataError if required data are missing, ConfigError for an unknown name."""
    items, size = options.items, options.image_size
    match name:
        case "classification":
            return ClassificationTask(read_labels(path, items), LabelledConfig(items=items), size)
        case "retrieval":
            return RetrievalTask(read_labels(path, items).test, size)
        case "tracking":
            return TrackingEvaluator(read_videos(path), options.short_side)
        case "segmentation":
            return SegmentationEvaluator(*thin(read_class_splits(path), items), image_size=size)
        case "depth":
            splits = thin(read_depth_splits(path, options.per_metre), items)
            return DepthEvaluator(*splits, DepthProtocol(head=DEPTH_HEAD), size)
        case "detection":
            return DetectionEvaluator(*keep_trained(*thin(read_instance_splits(path), items)), DETECTION, size)
    raise ConfigError(f"the task {name!r} is unknown; the tasks are {', '.join(TASKS)}")


def thin(splits: tuple[AnySet, AnySet], items: int) -> tuple[AnySet, AnySet]:
    """Return at most `items` evenly spaced test images and twice as many training images.

    The first images are often of one location or time, because their names are.
    """
    train, test = (
        part.select(spread_indices(len(part.keys), min(len(part.keys), count)))
        for part, count in zip(splits, (2 * items, items), strict=True)
    )
    return train, test
