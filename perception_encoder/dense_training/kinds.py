"""The kinds of dense training, an object each: its data and targets, its head, its losses and its validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.datasets.class_masks import UNSCORED, ClassMasks, read_class_splits
from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.datasets.rgbd import DepthImages, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig, scale_invariant_loss
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.detection.roi_heads import class_frequencies, repeat_factors
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig, class_share_loss
from perception_encoder.dense_training.batches import DenseBatch, DenseSamples, Targets
from perception_encoder.dense_training.config import DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.dense_training.validation import (
    ClassValidation,
    DenseValidation,
    DepthValidation,
    ObjectValidation,
)
from perception_encoder.models.initialization import drawn_from, torch_generator

Run = Callable[..., Any]
"""`run(batch, *arguments)` returns the head's output for a batch; `arguments`: those of the head."""


class DenseKind(ABC):
    """A kind of dense training on a dataset; `__init__` reads the dataset at a path and raises what its reader does."""

    task: ClassVar[str]
    """The head's task, in its description."""
    validation: ClassVar[type[DenseValidation]]
    training: DenseSamples
    held_out: DenseSamples
    description: Mapping[str, Any]
    """The fields of the head's description that depend on the kind."""

    @abstractmethod
    def __init__(self, config: Any, path: Path) -> None: ...

    def begin(self, head: Any, targets: Sequence[Targets]) -> None:
        """Prepare an untrained head for targets like these."""
        return

    def factors(self, head: Any) -> Tensor | None:
        """Return how often to show each image, if this differs."""
        return None

    @abstractmethod
    def losses(self, run: Run, batch: DenseBatch, patch_size: int) -> dict[str, Tensor]:
        """Return the losses of a batch by name; `patch_size`: the encoder's, in pixels."""

    @staticmethod
    def cost(head: Any, features: Tensor) -> tuple[float, float]:
        """Run a head without weights; return the operations and saved bytes that its run does not show."""
        head(features)
        return 0.0, 0.0


def depth_targets(dataset: DepthImages, index: int) -> Targets:
    """Return "depth" (H, W) in metres."""
    return {"depth": torch.from_numpy(dataset.depth(index))}


class DepthKind(DenseKind):
    """The depth of each pixel, by regression of its logarithm."""

    task, validation = "depth", DepthValidation

    def __init__(self, config: DepthTrainingConfig, path: Path) -> None:
        self.settings = config.head
        splits = read_depth_splits(path, config.per_metre)
        self.training, self.held_out = (DenseSamples(split, depth_targets) for split in splits)
        self.description = {"relative": self.settings.scale_invariance == 1}

    def begin(self, head: DepthHead, targets: Sequence[Targets]) -> None:
        """Initialise the prediction at the typical depth."""
        head.begin_with(torch.stack([target["depth"] for target in targets]))

    def losses(self, run: Run, batch: DenseBatch, patch_size: int) -> dict[str, Tensor]:
        predicted = run(batch)  # (B, h, w)
        depths = torch.stack([targets["depth"] for targets in batch.targets])[:, None]  # (B, 1, H, W)
        target = F.interpolate(depths, predicted.shape[-2:], mode="nearest-exact")[:, 0]
        return {"depth": scale_invariant_loss(predicted, target, self.settings)}


def class_targets(dataset: ClassMasks, index: int) -> Targets:
    """Return "labels" (H, W); 0, like padding, is not scored."""
    return {"labels": torch.from_numpy(dataset.labels(index).astype(np.int64)) - UNSCORED}


class ClassKind(DenseKind):
    """The class of each pixel."""

    task, validation = "segmentation", ClassValidation

    def __init__(self, config: SegmenterConfig, path: Path) -> None:
        self.training, self.held_out = (DenseSamples(split, class_targets) for split in read_class_splits(path))
        self.description = {"classes": self.training.dataset.classes}

    def losses(self, run: Run, batch: DenseBatch, patch_size: int) -> dict[str, Tensor]:
        labels = torch.stack([targets["labels"] for targets in batch.targets]) - 1
        return {"classes": class_share_loss(run(batch), labels)}


def object_targets(dataset: InstanceSet, index: int, masks: bool = True) -> Targets:
    """Return "boxes" (m, 4), "labels" (m,) and, with `masks`, if the dataset has them, "masks" (m, H, W)."""
    objects = dataset.instances(index, masks)
    targets = {"boxes": torch.from_numpy(objects.boxes), "labels": torch.from_numpy(objects.labels)}
    if objects.masks is not None:
        targets["masks"] = torch.from_numpy(objects.masks).to(torch.uint8)
    return targets


class ObjectKind(DenseKind):
    """Boxes of objects, and their masks if the head has them."""

    validation = ObjectValidation
    description: dict[str, Any]

    def __init__(self, config: DetectorConfig, path: Path) -> None:
        training, held_out = read_instance_splits(path)
        if config.class_agnostic:
            training, held_out = training.merge_classes(), held_out.merge_classes()
        masks = config.masks and training.has_masks and held_out.has_masks
        self.config, self.settings = config, config.head
        targets = partial(object_targets, masks=masks)
        self.training, self.held_out = DenseSamples(training, targets), DenseSamples(held_out, targets)
        self.description = {
            "classes": tuple(str(category.get("name", category["id"])) for category in training.categories),
            "class_ids": tuple(category["id"] for category in training.categories),
            "masks": masks,
            "padded": True,
        }

    def factors(self, head: Any) -> Tensor | None:
        threshold = self.config.repeat_threshold
        return None if threshold is None else repeat_factors(*self._shown(), threshold)

    def _shown(self) -> tuple[list[Tensor], Tensor]:
        """Return the labels of each training image, and the share of images that show each class."""
        dataset: InstanceSet = self.training.dataset
        labels = [torch.from_numpy(dataset.instances(row, masks=False).labels) for row in range(len(dataset.keys))]
        return labels, class_frequencies(labels, len(dataset.categories))

    def losses(self, run: Run, batch: DenseBatch, patch_size: int) -> dict[str, Tensor]:
        """Return the head's own losses; a Mask R-CNN's are torchvision's."""
        with drawn_from(torch_generator(self.config.seed, 6, batch.draw)):
            targets = [scale_targets(target, PATCH / patch_size) for target in batch.targets]
            inside = [tuple(target.pop("inside").tolist()) for target in targets]
            _, losses = run(batch, targets, inside)
        return {name.removeprefix("loss_"): loss.float() for name, loss in losses.items()}


class DetrKind(ObjectKind):
    """Objects by a deformable DETR."""

    task = "detr"

    @staticmethod
    def cost(head: DetrHead, features: Tensor) -> tuple[float, float]:
        """Return the operations of the linear layers and of the queries' attention: they depend on values.

        In each layer a token or query saves a value of each channel at 20 points, in float32, where they are, and what
        the linear layers read.
        """
        head.pyramid(features)
        config, tokens = head.config, sum(h * w for h, w in head.pyramid.sizes(features.shape[1:3]))
        queries, channels = config.queries, config.channels
        encoder, proposal, decoder = map(parameter_count, (head.encoder, head.proposal, head.decoder))
        linear = tokens * (encoder + proposal) + queries * decoder
        attention = config.layers * channels * (tokens * channels + 2 * queries**2)  # with the values of every token
        held = config.layers * (tokens + queries) * (110 * channels + 2 * config.hidden + 1600)
        held += 32 * head.classes * (tokens + config.layers * queries)  # scores and what their losses keep
        return 2.0 * (linear + attention), float(held)


class MaskRcnnKind(ObjectKind):
    """Objects by Mask R-CNN."""

    task = "detection"
    settings: DetectorHeadConfig

    def __init__(self, config: DetectorConfig, path: Path) -> None:
        super().__init__(config, path)
        least_score, most = self.settings.limits(self.training.dataset.lvis)
        self.description |= {"head": {**asdict(self.settings), "least_score": least_score, "most": most}}

    def factors(self, head: Detector) -> Tensor | None:
        """Return how often to show each image; set the weights of a federated loss."""
        if self.settings.federated is not None:
            head.model.roi_heads.class_weights.copy_(self._shown()[1].sqrt())
        return super().factors(head)

    @staticmethod
    def cost(head: Detector, features: Tensor) -> tuple[float, float]:
        levels, model = list(head.model.backbone(features).values()), head.model
        model.rpn.head(levels)
        model.roi_heads.box_head(torch.empty(head.regions, levels[0].shape[1], 7, 7))
        if head.masks:  # a quarter of the regions is an object's
            model.roi_heads.mask_head(torch.empty(head.regions // 4, levels[0].shape[1], 14, 14))
        return 0.0, 0.0


def parameter_count(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def scale_targets(target: Targets, scale: float) -> Targets:
    """Return targets in a detector's pixels: 16 by 16 per patch, whatever its real size."""
    moved = dict(target)
    if scale == 1:
        return moved
    moved |= {"boxes": target["boxes"] * scale, "inside": target["inside"] * scale}
    if "masks" in target and len(target["masks"]):
        size = [round(side * scale) for side in target["masks"].shape[-2:]]
        moved["masks"] = F.interpolate(target["masks"][:, None].float(), size, mode="nearest-exact")[:, 0].byte()
    return moved


KINDS: Mapping[type, type[DenseKind]] = {
    DepthHeadConfig: DepthKind,
    SegmentationHeadConfig: ClassKind,
    DetectorHeadConfig: MaskRcnnKind,
    DetrHeadConfig: DetrKind,
}
"""The kind of each head."""
