"""Mask R-CNN's heads as ViTDet has them (Li et al., 2022), of torchvision's parts.

Two convolutions propose regions, four with layer norms and one linear layer classify them, and the mask head has layer
norms, too. Anchors are not rounded, regions are aligned to the centres of pixels, boxes are learned by the L1 loss, and
1,000 regions of an image are proposed in training as well, as in detectron2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.dense_prediction.feature_pyramid import ChannelNorm

PROPOSED = 1000
"""Regions of an image that the heads see, before those that they learn from are sampled."""
EPS = 1e-6
"""Of layer norms over channels."""
CONVOLUTIONS = 4
RATIOS = (0.5, 1.0, 2.0)
USUAL_SIDE, USUAL_LEVEL = 224, 4
"""A region of this side is pooled from the map whose patches have 2^level pixels; twice the side, a level higher."""


class AlignedPooling(nn.Module):
    """Mixed into torchvision's `MultiScaleRoIAlign`: regions are shifted by half a pixel and sampled as finely as they
    are large."""

    featmap_names: list[str]
    output_size: tuple[int, int]

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Float[Tensor, "R C s s"]:
        """Return the pooled regions of all images, from the level that fits their size."""
        from torchvision.ops import roi_align

        maps = [x[name] for name in self.featmap_names]
        numbers = torch.cat([torch.full_like(each[:, :1], row) for row, each in enumerate(boxes)])
        corners = torch.cat(boxes)
        sides = ((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).sqrt()
        finest = 2  # the first map's patches have 4 pixels
        level = (USUAL_LEVEL + (sides / USUAL_SIDE + 1e-8).log2()).floor().clamp(finest, finest + len(maps) - 1)
        rows, parts = [], []
        for number, own in enumerate(maps, start=finest):
            rows.append(torch.nonzero(level == number)[:, 0])
            regions = torch.cat([numbers, corners], dim=1)[rows[-1]].float()
            parts.append(roi_align(own.float(), regions, self.output_size, 2.0**-number, -1, aligned=True))
        return torch.cat(parts)[torch.cat(rows).argsort()]


class L1Proposals:
    """Mixed into torchvision's `RegionProposalNetwork`: the L1 loss of boxes, instead of a smooth one."""

    fg_bg_sampler: Any

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and of boxes: see torchvision."""
        positive, negative = (torch.nonzero(torch.cat(each))[:, 0] for each in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        targets = torch.cat(regression_targets)
        boxes = F.l1_loss(pred_bbox_deltas[positive], targets[positive], reduction="sum") / len(sampled)
        return F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled]), boxes


class L1Heads:
    """Mixed into torchvision's `RoIHeads`: the L1 loss of boxes, instead of a smooth one."""

    training: bool

    def _keep_boxes(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._boxes = outputs[1]

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        """Choose the regions that are learned from: see torchvision."""
        chosen = super().select_training_samples(proposals, targets)  # type: ignore[misc]
        self._targets = torch.cat(chosen[2]), torch.cat(chosen[3])
        return chosen

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
        """Return detections and losses: see torchvision."""
        detections, losses = super().forward(features, proposals, image_shapes, targets)  # type: ignore[misc]
        if self.training:
            losses["loss_box_reg"] = l1_box_loss(self._boxes, *self._targets)
        self._boxes, self._targets = torch.empty(0), (torch.empty(0), torch.empty(0))
        return detections, losses


def l1_box_loss(boxes: Float[Tensor, "R K4"], labels: Tensor, targets: Float[Tensor, "R 4"]) -> Float[Tensor, ""]:
    """Return the L1 loss of the boxes of objects, those of their class, over the number of all regions."""
    rows = torch.nonzero(labels > 0)[:, 0]
    own = boxes.unflatten(1, (-1, 4))[rows, labels[rows]]
    return F.l1_loss(own, targets[rows], reduction="sum") / max(1, len(labels))


def learn_by_l1(model: Any) -> None:
    """Let torchvision's `FasterRCNN` learn boxes by the L1 loss, in place."""
    for part, mixin in ((model.rpn, L1Proposals), (model.roi_heads, L1Heads)):
        part.__class__ = type(f"L1{type(part).__name__}", (mixin, type(part)), {})
    model.roi_heads.box_predictor.register_forward_hook(model.roi_heads._keep_boxes)


def aligned_pooling(levels: Sequence[str], size: int) -> Any:
    """Return a pooling of regions of `size` by `size`."""
    from torchvision.ops import MultiScaleRoIAlign

    return type("AlignedRoIAlign", (AlignedPooling, MultiScaleRoIAlign), {})(list(levels), size, -1)


def exact_anchors(size: float) -> Float[Tensor, "3 4"]:
    """Return the anchors of a size around 0, of each ratio of height to width."""
    ratios = torch.tensor(RATIOS)
    sides = torch.stack([size / ratios.sqrt(), size * ratios.sqrt()], dim=1)  # (3, 2): width, height
    return torch.cat([-sides, sides], dim=1) / 2


def vitdet_settings(
    channels: int, hidden: int, classes: int, masks: bool, levels: Sequence[str], strides: Sequence[float]
) -> dict[str, Any]:
    """Return the arguments of torchvision's `MaskRCNN` that make ViTDet's; `classes`: without the background."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import RPNHead

    norm = partial(ChannelNorm, eps=EPS)
    anchors = AnchorGenerator(tuple((int(8 * stride),) for stride in strides), (RATIOS,) * len(strides))
    anchors.cell_anchors = [exact_anchors(8 * stride) for stride in strides]
    settings = {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, len(RATIOS), conv_depth=2),
        "rpn_post_nms_top_n_train": PROPOSED,
        "box_roi_pool": aligned_pooling(levels, 7),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), [channels] * CONVOLUTIONS, [hidden], norm),
        "box_predictor": FastRCNNPredictor(hidden, classes + 1),
    }
    if masks:
        settings["mask_roi_pool"] = aligned_pooling(levels, 14)
        settings["mask_head"] = MaskRCNNHeads(channels, (channels,) * CONVOLUTIONS, 1, norm)
        settings["mask_predictor"] = MaskRCNNPredictor(channels, channels, classes + 1)
    return settings
