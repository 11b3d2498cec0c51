"""The tasks of the layer analysis in small, and their data.

Segmentation is of objects of any class, because a few hundred scenes show each class a few times. Detection is left
out: in as few steps as two cores allow, a detector reaches 1 or 2 % AP, which shows nothing about a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from experiments.layers.caption_task import read_caption_task
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import DepthImages, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.splits import Splits, load_splits
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.layer_analysis.tasks import (
    ClassificationTask,
    LabelledConfig,
    LayerTask,
    RetrievalTask,
    join_splits,
    thin,
)
from synthetic.builtin.held_out import find_unseen_labels
from synthetic.scenes.samples.reading import read_object_splits

EPOCHS = 12
"""Of the attentive probe."""
CHANNELS, STEPS = 16, 100
"""Of the depth head, and of its fit, whatever the number of images."""
BY_COSINE = ("retrieval", "tracking", "captions")
"""Tasks without a fitted head, which would standardise features itself: here a final norm shows."""
ONE_SIZE, SIZE = ("segmentation", "depth of scenes", "depth of rooms"), 128
"""Tasks whose images all models see at one size: a finer grid of patches draws better, whatever the features."""


@dataclass(frozen=True, kw_only=True)
class LayerData:
    """The paths of the tasks' data."""

    photos: Path
    """Shards of labelled images."""
    scenes: Path
    """Rendered scenes."""
    clips: Path
    """Videos with masks."""
    rooms: Path | None = None
    """Images with depth; without it their task is left out. A single sequence has no interval."""
    captions: Path | None = None
    """File of captions; without it their task is left out."""

    def __post_init__(self) -> None:
        """DataError for a path that does not exist."""
        for field in fields(self):
            path = getattr(self, field.name)
            if path is not None and not path.exists():
                raise DataError(f"{field.name}: {path} does not exist")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The most items that a task is evaluated on; heads are fitted on twice as many."""

    photos: int = 300
    scenes: int = 60
    rooms: int = 100
    clips: int = 40
    """Frames of each video."""
    captions: int = 500


@lru_cache(maxsize=1)
def make_layer_tasks(data: LayerData, sizes: Sizes) -> dict[str, LayerTask]:
    """Read the tasks; their heads are fitted briefly, because many layers of several models pay for them.

    DataError if a path lacks what its task needs.
    """
    labels = join_splits(_seen(data.photos), sizes.photos)
    config = LabelledConfig(methods=("attentive probe",))
    attentive = replace(config.attentive, fit=replace(config.attentive.fit, epochs=EPOCHS))
    masks = thin(read_object_splits(data.scenes), sizes.scenes)
    scenes = thin(read_depth_splits(data.scenes), sizes.scenes)
    head = DepthConfig(channels=CHANNELS)
    tasks: dict[str, LayerTask] = {
        "classification": ClassificationTask(labels, replace(config, attentive=attentive)),
        "retrieval": RetrievalTask(labels.test),
        "segmentation": SegmentationEvaluator(*masks, image_size=(SIZE, SIZE)),
        "depth of scenes": _depth_task("depth of scenes", scenes, head.relative(), aligned=True),
    }
    if data.rooms is not None:
        rooms = thin(read_depth_splits(data.rooms), sizes.rooms)
        tasks["depth of rooms"] = _depth_task("depth of rooms", rooms, head)
    videos = read_videos(data.clips)
    videos = [replace(video, frames=video.frames[: sizes.clips], masks=video.masks[: sizes.clips]) for video in videos]
    tasks["tracking"] = TrackingEvaluator(videos, short_side=240)
    if data.captions is not None:
        tasks["captions"] = read_caption_task(data.captions, sizes.captions)
    return tasks


def _seen(photos: Path) -> dict[str, Splits]:
    """Read the labelled images without the classes that are never trained on."""
    unseen = find_unseen_labels(photos)

    def seen(name: str, part: LabelledImages) -> LabelledImages:
        return part.select([row for row, label in enumerate(part.labels) if (name, label) not in unseen])

    return {
        name: Splits(train=seen(name, task.train), val=seen(name, task.val), test=seen(name, task.test))
        for name, task in load_splits(photos, "test").items()
    }


def _depth_task(
    name: str, splits: tuple[DepthImages, DepthImages], head: DepthConfig, aligned: bool = False
) -> DepthEvaluator:
    fit = replace(head.fit, epochs=-(-STEPS * head.fit.batch // len(splits[0].keys)))
    protocol = DepthProtocol(head=replace(head, fit=fit), aligned=aligned)
    return DepthEvaluator(*splits, protocol, (SIZE, SIZE), name)
