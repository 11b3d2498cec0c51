"""The task of training a head for depth, segmentation or detection on the feature map of a tower's layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.depth import DepthHead, scale_invariant_loss
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH
from perception_encoder.dense_prediction.segmentation import SegmentationHead, class_share_loss
from perception_encoder.dense_training.batches import DenseBatch, Targets
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.models.initialization import drawn_from, torch_generator
from perception_encoder.training.task import Task, Validation


def trained_part(model: DenseModel, config: DenseConfig) -> nn.Module:
    """Return the module to train and save in checkpoints: only the head if the encoder is frozen."""
    return model.head if config.frozen else model


class DenseTask(Task):
    """Minimise the losses of a head; a detector's are torchvision's."""

    def __init__(self, model: DenseModel, config: DenseConfig, validation: Validation | None = None) -> None:
        self.model, self.config, self.validation = trained_part(model, config), config, validation
        self.backbone, self.head = model.backbone, model.head

    def losses(self, batch: DenseBatch) -> dict[str, Tensor]:
        """Return the head's losses by name; with several ranks, this rank's shares."""
        return {name: batch.share * loss for name, loss in self._losses(batch).items()}

    def _run(self, batch: DenseBatch, *arguments: Any) -> Any:
        """Return the head's output; `model` is the head alone, or with the encoder."""
        if self.config.frozen:
            return self.model(self.backbone(batch.images), *arguments)
        return self.model(batch.images, *arguments, branches=batch.branches)

    def _losses(self, batch: DenseBatch) -> dict[str, Tensor]:
        match self.head:
            case DepthHead():
                predicted = self._run(batch)  # (B, h, w)
                depths = torch.stack([targets["depth"] for targets in batch.targets])[:, None]  # (B, 1, H, W)
                target = F.interpolate(depths, predicted.shape[-2:], mode="nearest-exact")[:, 0]
                return {"depth": scale_invariant_loss(predicted, target, self.head.config)}
            case SegmentationHead():
                labels = torch.stack([targets["labels"] for targets in batch.targets]) - 1
                return {"classes": class_share_loss(self._run(batch), labels)}
        with drawn_from(torch_generator(self.config.seed, 6, batch.draw)):
            targets = [self._scaled(target) for target in batch.targets]
            inside = [tuple(target.pop("inside").tolist()) for target in targets]
            _, losses = self._run(batch, targets, inside)
        return {name.removeprefix("loss_"): loss.float() for name, loss in losses.items()}

    def _scaled(self, target: Targets) -> Targets:
        """Return targets in a detector's pixels: 16 by 16 per patch, whatever its real size."""
        scale = PATCH / self.backbone.patch_size
        moved = dict(target)
        if scale == 1:
            return moved
        moved |= {"boxes": target["boxes"] * scale, "inside": target["inside"] * scale}
        if "masks" in target and len(target["masks"]):
            size = [round(side * scale) for side in target["masks"].shape[-2:]]
            moved["masks"] = F.interpolate(target["masks"][:, None].float(), size, mode="nearest-exact")[:, 0].byte()
        return moved
