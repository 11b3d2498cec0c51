"""Changes to torchvision's Mask R-CNN: ViTDet's pyramid and heads (Li et al., 2022), and LVIS's federated loss.

The pyramid of one layer's map has 4, 2, 1 and 1/2 times the grid and one coarser level, by transposed convolutions or
pooling, each projected by two convolutions with layer norms.

ViTDet: two convolutions propose regions, four with layer norms and one linear layer classify them, and the mask head
has layer norms, too. Anchors are not rounded, regions are aligned to pixel centres, boxes are learned by the L1 loss,
and training also proposes 1,000 regions per image, as in detectron2.

LVIS has many classes, and each image is annotated for some only: classes are scored by sigmoids, and only those in a
batch and some drawn others are learned from (Zhou et al., 2021).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import Standardize

SCALES = (4.0, 2.0, 1.0, 0.5)  # of the pyramid's levels
PROPOSED = 1000  # regions of an image that reach the heads, before sampling those to train on
EPS = 1e-6  # epsilon of layer norms over channels
CONVOLUTIONS = 4
RATIOS = (0.5, 1.0, 2.0)
USUAL_SIDE, USUAL_LEVEL = 224, 4
"""A region with this side is pooled from the map with 2^level pixels per patch; each doubling is a level higher."""
PRIOR = 0.01  # initial score of every class, as for focal losses
SMALLEST = 1e-2  # minimum side of a box in pixels, as in torchvision


class ChannelNorm(nn.Module):
    """A layer norm over the channels of maps (B, C, h, w)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Features (B, h, w, D) to maps (B, C, …) by level, from "0", the finest, to "4"."""

    def __init__(self, width: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.out_channels = channels
        self.standardize = Standardize(width)
        half, quarter = (max(channels, width // part) for part in (2, 4))  # a norm over few channels would erase them
        finest = [nn.ConvTranspose2d(width, half, 2, 2), ChannelNorm(half, eps), nn.GELU()]
        resize = [
            nn.Sequential(*finest, nn.ConvTranspose2d(half, quarter, 2, 2)),
            nn.ConvTranspose2d(width, half, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2, ceil_mode=True),
        ]
        widths = (quarter, half, width, width)
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(wide, channels, 1, bias=False),
                ChannelNorm(channels, eps),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels, eps),
            )
            for scale, wide in zip(resize, widths, strict=True)
        )

    def forward(self, features: Float[Tensor, "B h w D"]) -> OrderedDict[str, Tensor]:
        maps = self.standardize(features)
        levels = OrderedDict((str(number), level(maps)) for number, level in enumerate(self.levels))
        levels[str(len(self.levels))] = F.max_pool2d(levels[str(len(self.levels) - 1)], 1, 2)
        return levels


class AlignedPooling(nn.Module):
    """Mixin for torchvision's `MultiScaleRoIAlign`: half-pixel alignment, sampled as densely as regions are large."""

    featmap_names: list[str]
    output_size: tuple[int, int]

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Float[Tensor, "R C s s"]:
        """Return the pooled regions of all images, each from the level that fits its size."""
        from torchvision.ops import roi_align

        maps = [x[name] for name in self.featmap_names]
        numbers = torch.cat([torch.full_like(item[:, :1], row) for row, item in enumerate(boxes)])
        corners = torch.cat(boxes)
        sides = ((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).sqrt()
        finest = 2  # the first map's patches have 4 pixels
        level = (USUAL_LEVEL + (sides / USUAL_SIDE + 1e-8).log2()).floor().clamp(finest, finest + len(maps) - 1)
        rows, parts = [], []
        for number, features in enumerate(maps, start=finest):
            rows.append(torch.nonzero(level == number)[:, 0])
            regions = torch.cat([numbers, corners], dim=1)[rows[-1]].float()
            parts.append(roi_align(features.float(), regions, self.output_size, 2.0**-number, -1, aligned=True))
        return torch.cat(parts)[torch.cat(rows).argsort()]


class L1Proposals:
    """Mixin for torchvision's `RegionProposalNetwork`: the L1 loss of boxes instead of a smooth one."""

    fg_bg_sampler: Any

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        positive, negative = (torch.nonzero(torch.cat(item))[:, 0] for item in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        targets = torch.cat(regression_targets)
        boxes = F.l1_loss(pred_bbox_deltas[positive], targets[positive], reduction="sum") / len(sampled)
        return F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled]), boxes


class CustomRoIHeads(nn.Module):
    """Mixin for torchvision's `RoIHeads`: the L1 loss of boxes, or sigmoids with the federated loss, or both.

    With sigmoids class 0, the background, is what no class scores.
    """

    l1 = False
    sampled: int | None = None
    _outputs: Any
    _labels: Any
    _targets: Any
    class_weights: Tensor
    box_predictor: Any
    box_coder: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int

    def _remember(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._outputs = outputs

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        chosen = super().select_training_samples(proposals, targets)  # type: ignore[misc]
        self._labels, self._targets = torch.cat(chosen[2]), torch.cat(chosen[3])
        return chosen

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
        detections, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            logits, boxes = self._outputs
            if self.l1:
                losses["loss_box_reg"] = l1_box_loss(boxes, self._labels, self._targets)
            if self.sampled is not None:
                losses["loss_classifier"] = federated_loss(logits, self._labels, self.class_weights, self.sampled)
        self._outputs = self._labels = self._targets = None
        return detections, losses

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes, scores and labels of each image; with sigmoids a region can have several classes."""
        if self.sampled is None:
            found = super().postprocess_detections  # type: ignore[misc]
            return found(class_logits, box_regression, proposals, image_shapes)
        counts = [len(item) for item in proposals]
        boxes = self.box_coder.decode(box_regression, proposals).split(counts)  # (n, 1 + K, 4) an image
        scores = class_logits.sigmoid().split(counts)
        results = [self._best(*item) for item in zip(boxes, scores, image_shapes, strict=True)]
        chosen, best, labels = (list(part) for part in zip(*results, strict=True))
        return chosen, best, labels

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

        region, label = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        chosen, score = clip_boxes_to_image(boxes[region, label + 1], size), scores[region, label + 1]
        large = remove_small_boxes(chosen, SMALLEST)
        chosen, score, label = chosen[large], score[large], label[large] + 1
        best = batched_nms(chosen, score, label, self.nms_thresh)[: self.detections_per_img]
        return chosen[best], score[best], label[best]


def customize(model: Any, l1: bool, classes: int, sampled: int | None) -> None:
    """Change torchvision's `FasterRCNN` in place.

    `l1`: learn boxes by the L1 loss in both stages. `sampled`: learn classes by the federated loss, at least this many
    in each batch.
    """
    heads = model.roi_heads
    if l1:
        model.rpn.__class__ = type("L1RegionProposalNetwork", (L1Proposals, type(model.rpn)), {})
    heads.__class__ = type("CustomRoIHeads", (CustomRoIHeads, type(heads)), {"l1": l1, "sampled": sampled})
    heads.box_predictor.register_forward_hook(heads._remember)
    if sampled is not None:
        heads.register_buffer("class_weights", torch.ones(classes))
        nn.init.constant_(heads.box_predictor.cls_score.bias, -math.log((1 - PRIOR) / PRIOR))


def l1_box_loss(boxes: Float[Tensor, "R K4"], labels: Tensor, targets: Float[Tensor, "R 4"]) -> Float[Tensor, ""]:
    """Return the L1 loss of the objects' boxes, each for its class, divided by the number of all regions."""
    rows = torch.nonzero(labels > 0)[:, 0]
    predicted = boxes.unflatten(1, (-1, 4))[rows, labels[rows]]
    return F.l1_loss(predicted, targets[rows], reduction="sum") / max(1, len(labels))


def federated_loss(
    logits: Float[Tensor, "R K1"], labels: Int[Tensor, " R"], weights: Float[Tensor, " K"], sampled: int
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy summed over the classes in use, averaged over regions; class 0 is the background.

    At least `sampled` classes are in use: torch's generator draws those that no label names in proportion to `weights`.
    """
    present = labels[labels > 0].unique() - 1
    used = torch.zeros_like(weights, dtype=torch.bool)
    used[present] = True
    rest = torch.where(used, 0.0, weights)
    missing = min(sampled - len(present), int((rest > 0).sum()))
    if missing > 0:
        used[torch.multinomial(rest, missing)] = True
    truth = F.one_hot(labels, logits.shape[1])[:, 1:].to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits[:, 1:].float(), truth.float(), reduction="none")
    return (losses * used).sum() / max(1, len(labels))


def class_frequencies(labels: Sequence[Int[Tensor, " m"]], classes: int) -> Float[Tensor, " K"]:
    """Return the share of images that show each class; `labels`: those of each image's objects, from 1."""
    counts = torch.zeros(classes)
    for item in labels:
        counts[item.unique() - 1] += 1
    return counts / max(1, len(labels))


def repeat_factors(
    labels: Sequence[Int[Tensor, " m"]], frequencies: Float[Tensor, " K"], threshold: float
) -> Float[Tensor, " n"]:
    """Return how often to show each image in an epoch: √(threshold / frequency) of its rarest class, at least 1.

    Gupta et al., "LVIS", 2019.
    """
    factors = (threshold / frequencies.clamp_min(1e-12)).sqrt().clamp_min(1.0)
    return torch.stack([factors[item.unique() - 1].max() if len(item) else torch.tensor(1.0) for item in labels])


def aligned_pooling(levels: Sequence[str], output_size: int) -> Any:
    """Return a pooling layer for regions of `output_size` by `output_size`."""
    from torchvision.ops import MultiScaleRoIAlign

    return type("AlignedRoIAlign", (AlignedPooling, MultiScaleRoIAlign), {})(list(levels), output_size, -1)


def exact_anchors(size: float) -> Float[Tensor, "3 4"]:
    """Return the anchors of a size around 0, one per ratio of height to width."""
    ratios = torch.tensor(RATIOS)
    sides = torch.stack([size / ratios.sqrt(), size * ratios.sqrt()], dim=1)  # (3, 2): width, height
    return torch.cat([-sides, sides], dim=1) / 2


def head_settings(
    vitdet: bool, channels: int, hidden: int, classes: int, masks: bool, levels: Sequence[str], strides: Sequence[float]
) -> dict[str, Any]:
    """Return the arguments of torchvision's `MaskRCNN` for its own heads, or ViTDet's; no background in `classes`."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import MultiScaleRoIAlign

    anchors = AnchorGenerator(tuple((int(8 * stride),) for stride in strides), (RATIOS,) * len(strides))
    settings: dict[str, Any] = {"rpn_anchor_generator": anchors}
    norm, pool = None, partial(MultiScaleRoIAlign, list(levels), sampling_ratio=2)
    if vitdet:
        norm, pool = partial(ChannelNorm, eps=EPS), partial(aligned_pooling, levels)
        anchors.cell_anchors = [exact_anchors(8 * stride) for stride in strides]
        settings["rpn_head"] = RPNHead(channels, len(RATIOS), conv_depth=2)
        settings["rpn_post_nms_top_n_train"] = PROPOSED
        settings["box_head"] = FastRCNNConvFCHead((channels, 7, 7), [channels] * CONVOLUTIONS, [hidden], norm)
    else:
        settings["box_head"] = TwoMLPHead(channels * 7**2, hidden)
    settings["box_predictor"] = FastRCNNPredictor(hidden, classes + 1)
    settings["box_roi_pool"] = pool(output_size=7)
    if masks:
        settings["mask_roi_pool"] = pool(output_size=14)
        settings["mask_head"] = MaskRCNNHeads(channels, (channels,) * CONVOLUTIONS, 1, norm)
        settings["mask_predictor"] = MaskRCNNPredictor(channels, channels, classes + 1)
    return settings
