"""Small datasets of the three tasks on the disk, and runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from perception_encoder.dense_prediction.dense_model import HeadInfo, head_info
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.dense_training.recipes import depth_estimator, detector, segmenter
from perception_encoder.formats.shards import write_members
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.training.settings import override
from tests.datasets.drawn import pairs, rooms, write_instances, write_masks

SMALL = (
    *("image_size=32", "steps=4", "batch_size=4", "warmup=0", "log_every=1", "checkpoint_every=2", "half=false"),
    *("validation.every=2", "validation.size=4"),
)
HEADS = {
    "depth": ("head.channels=8",),
    "segmenter": (),
    "detector": ("head.channels=8", "head.hidden=16", "head.regions=16"),
}


def write_dataset(task: str, path: Path, train: int = 8, test: int = 4) -> Path:
    """Write a dataset of a task, "depth", "segmenter" or "detector"."""
    counts = {"train": train, "test": test}
    if task == "detector":
        return write_instances(path, counts)
    for seed, (split, count) in enumerate(counts.items()):
        if task == "segmenter":
            write_masks(path, split, count, seed)
            continue
        images = pairs(split, rooms(count, seed))
        members = [(f"{key}.png", content) for key, content in zip(images.keys, images.images, strict=True)]
        depths = [(f"{key}.depth.png", content) for key, content in zip(images.keys, images.depths, strict=True)]
        write_members(path / split / "00000.tar", [*members, *depths])  # type: ignore[list-item]
    return path


def small_config(task: str, *settings: str) -> DenseConfig:
    """Return a run of four steps, with other settings as `--set` takes them."""
    recipes: dict[str, Any] = {"depth": depth_estimator, "segmenter": segmenter, "detector": detector}
    config: DenseConfig = recipes[task]()
    return override(config, [*SMALL, *HEADS[task], *settings])


def read_head(path: Path) -> tuple[HeadInfo, dict[str, Tensor]]:
    tensors, metadata = read_checkpoint(path)
    return head_info(path, metadata), tensors
