"""The tasks of the experiments on dense prediction, read under the pages' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.errors import DataError
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.layer_analysis.tasks import DEPTH_HEAD, DETECTION, LayerTask, TaskOptions, make_task, thin
from synthetic.scenes.samples.reading import read_object_splits, read_rendered_videos


def read_dense_tasks(
    tasks: Mapping[str, tuple[str, Path | None]], items: int, side: int, short_side: int
) -> dict[str, LayerTask]:
    """Read the data of tasks, by the page's name: that of `pe layers`, and a path; those without a path are left out.

    `items`, `short_side`: see `TaskOptions`; images are squashed to `side` pixels. DataError for what is missing.
    """
    options = TaskOptions(items=items, image_size=(side, side), short_side=short_side)
    evaluators = {}
    for name, (kind, path) in tasks.items():
        if path is None:
            continue
        if not path.exists():
            raise DataError(f"{name}: {path} does not exist")
        evaluators[name] = read_task(kind, path, options)
    return evaluators


def read_task(kind: str, path: Path, options: TaskOptions) -> LayerTask:
    """Read a task of `pe layers`, or one of four for rendered scenes, which show each class only a few times.

    "foreground": segmentation of objects and background; "relative-depth": depth after scaling each prediction to the
    right median, for images that do not show how large objects are; "objects": detection of objects of any class;
    "rendered-tracking": tracking in rendered videos.
    """
    match kind:
        case "foreground":
            masks = thin(read_object_splits(path), options.items)
            return SegmentationEvaluator(*masks, image_size=options.image_size, name=kind)
        case "rendered-tracking":
            return TrackingEvaluator(read_rendered_videos(path), options.short_side)
        case "relative-depth":
            protocol = DepthProtocol(head=DEPTH_HEAD.relative(), aligned=True)
            splits = thin(read_depth_splits(path, options.per_metre), options.items)
            return DepthEvaluator(*splits, protocol, options.image_size, kind)
        case "objects":
            train, test = (part.merge_classes() for part in thin(read_instance_splits(path), options.items))
            return DetectionEvaluator(train, test, DETECTION, options.image_size, kind)
    return make_task(kind, path, options)
