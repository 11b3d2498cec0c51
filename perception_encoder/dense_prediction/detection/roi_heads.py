"""Mask R-CNN's heads as ViTDet has them (Li et al., 2022), of torchvision's parts.

Two convolutions propose regions, four with layer norms and one linear layer classify them, and the mask head has layer
norms, too. Anchors are not rounded, regions are aligned to the centres of pixels, boxes are learned by the L1 loss, and
1,000 regions of an image are proposed in training as well, as in detectron2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.detection.feature_pyramid import ChannelNorm

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


PRIOR = 0.01
"""Score of every class at first, as of focal losses."""
SMALLEST = 1e-2
"""Pixels of a box's side, as in torchvision."""


class FederatedHeads(nn.Module):
    """Mixed into torchvision's `RoIHeads`: sigmoids; class 0, the background, is what no class scores."""

    class_weights: Tensor
    sampled: int
    box_predictor: Any
    box_coder: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int

    def _remember(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._logits = outputs[0]

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        """Choose the regions that are learned from: see torchvision."""
        chosen = super().select_training_samples(proposals, targets)  # type: ignore[misc]
        self._labels = torch.cat(chosen[2])
        return chosen

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
        """Return detections and losses: see torchvision."""
        detections, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            losses["loss_classifier"] = federated_loss(self._logits, self._labels, self.class_weights, self.sampled)
        self._logits = self._labels = torch.empty(0)
        return detections, losses

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes, scores and labels of each image; a region may be of several classes."""
        counts = [len(each) for each in proposals]
        boxes = self.box_coder.decode(box_regression, proposals).split(counts)  # (n, 1 + K, 4) an image
        scores = class_logits.sigmoid().split(counts)
        results = [self._best(*each) for each in zip(boxes, scores, image_shapes, strict=True)]
        return [each[0] for each in results], [each[1] for each in results], [each[2] for each in results]

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

        region, label = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        own, score = clip_boxes_to_image(boxes[region, label + 1], size), scores[region, label + 1]
        large = remove_small_boxes(own, SMALLEST)
        own, score, label = own[large], score[large], label[large] + 1
        best = batched_nms(own, score, label, self.nms_thresh)[: self.detections_per_img]
        return own[best], score[best], label[best]


def federate(heads: Any, classes: int, sampled: int) -> None:
    """Let torchvision's `RoIHeads` learn some classes of each batch, in place. `sampled`: how many, at least."""
    heads.__class__ = type("FederatedRoIHeads", (FederatedHeads, type(heads)), {})
    heads.sampled = sampled
    heads.register_buffer("class_weights", torch.ones(classes))
    heads._logits, heads._labels = torch.empty(0), torch.empty(0)
    heads.box_predictor.register_forward_hook(heads._remember)
    nn.init.constant_(heads.box_predictor.cls_score.bias, -math.log((1 - PRIOR) / PRIOR))


def federated_loss(
    logits: Float[Tensor, "R K1"], labels: Int[Tensor, " R"], weights: Float[Tensor, " K"], sampled: int
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of the classes that are looked at, summed over them, a mean over regions.

    `logits`: of the background, which is not used, and of the classes; `labels`: 0 is background. The classes are those
    of the labels, and if they are fewer than `sampled`, others drawn in proportion to `weights`, by torch's generator.
    """
    present = labels[labels > 0].unique() - 1
    looked_at = torch.zeros_like(weights, dtype=torch.bool)
    looked_at[present] = True
    rest = torch.where(looked_at, 0.0, weights)
    missing = min(sampled - len(present), int((rest > 0).sum()))
    if missing > 0:
        looked_at[torch.multinomial(rest, missing)] = True
    truth = F.one_hot(labels, logits.shape[1])[:, 1:].to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits[:, 1:].float(), truth.float(), reduction="none")
    return (losses * looked_at).sum() / max(1, len(labels))


def class_frequencies(labels: Sequence[Int[Tensor, " m"]], classes: int) -> Float[Tensor, " K"]:
    """Return the share of images that show each class; `labels`: of each image's objects, from 1."""
    counts = torch.zeros(classes)
    for own in labels:
        counts[own.unique() - 1] += 1
    return counts / max(1, len(labels))


def repeat_factors(
    labels: Sequence[Int[Tensor, " m"]], frequencies: Float[Tensor, " K"], threshold: float
) -> Float[Tensor, " n"]:
    """Return how often each image is shown in an epoch: √(threshold / frequency) of its rarest class, at least 1.

    Gupta et al., "LVIS", 2019.
    """
    factors = (threshold / frequencies.clamp_min(1e-12)).sqrt().clamp_min(1.0)
    return torch.stack([factors[own.unique() - 1].max() if len(own) else torch.tensor(1.0) for own in labels])
