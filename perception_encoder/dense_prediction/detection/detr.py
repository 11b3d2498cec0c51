"""Boxes of objects by a deformable DETR whose queries are assigned as DETA does, over a pyramid of one layer.

The transformer is transformers' (Zhu et al., 2021), in two stages: all pyramid patches propose boxes, and the best
become queries. Both stages assign several predictions to an object by their overlap and suppress doubles afterwards
(Ouyang-Zhang et al., "NMS Strikes Back", 2022), as in the paper's system-level detector (appendix B.3.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detected
from perception_encoder.dense_prediction.detection.suppression import suppress
from perception_encoder.dense_prediction.feature_pyramid import SimplePyramid
from perception_encoder.errors import ConfigError, MissingExtraError

LEVELS = 5
SMALLEST_ANCHOR = 0.05
"""Share of the image's sides of an anchor of the finest level; each level doubles it, as in transformers."""
PROPOSAL_OVERLAPS, QUERY_OVERLAP = (0.3, 0.7), 0.6
"""From the higher IoU with an object on, an anchor or a query is its; below the lower one an anchor is background."""
PRIOR = 0.01
"""Score of every class at first."""
COSTS = {"class": 2.0, "box": 5.0, "giou": 2.0}
"""Weights of the losses, deformable DETR's."""


@dataclass(frozen=True, kw_only=True)
class DetrHeadConfig:
    """The transformer's size, and what it gives; the defaults are the paper's."""

    channels: int = 256
    """Of the pyramid and the transformer; a multiple of 32."""
    layers: int = 6
    """Of its encoder, and of its decoder."""
    hidden: int = 2048
    """Of their MLPs."""
    queries: int = 900
    """The best proposals; 2,000 with test-time augmentation."""
    matches: int = 4
    """Queries that an object has, at most."""
    least_score: float = 0.01
    most: int = 100
    """Detections of an image."""
    overlap: float = 0.7
    """From this IoU on, the worse of two detections of a class is suppressed."""
    soft: bool = False
    """Lower the scores of those that overlap, rather than drop them (soft-NMS)."""

    def __post_init__(self) -> None:
        if self.channels < 32 or self.channels % 32:
            raise ConfigError(f"channels is {self.channels}; it must be a multiple of 32")
        if min(self.layers, self.hidden, self.queries, self.matches, self.most) < 1:
            raise ConfigError("layers, hidden, queries, matches and most must each be at least 1")


class DetrHead(nn.Module):
    """Features (B, h, w, D) to losses, or to detections; see `Detector`."""

    masks = False

    def __init__(self, width: int, classes: int, config: DetrHeadConfig) -> None:
        """`classes`: without a background. MissingExtraError without transformers."""
        super().__init__()
        try:
            from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
        except ImportError:
            raise MissingExtraError("transformers", "lang") from None
        self.config, self.classes = config, classes
        channels = config.channels
        make, make_unused = cast(Any, DeformableDetrConfig), cast(Any, ResNetConfig)
        unused = make_unused(
            embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", out_features=["stage1"]
        )
        own = make(
            backbone_config=unused, num_labels=classes, d_model=channels, num_feature_levels=LEVELS,
            encoder_layers=config.layers, decoder_layers=config.layers, num_queries=config.queries,
            encoder_ffn_dim=config.hidden, decoder_ffn_dim=config.hidden, dropout=0.0,
            two_stage=True, two_stage_num_proposals=config.queries, with_box_refine=True, auxiliary_loss=True,
            encoder_attention_heads=8, decoder_attention_heads=8, disable_custom_kernels=True,
        )  # fmt: skip
        self.model: Any = DeformableDetrForObjectDetection(own)
        self.model.model.backbone = _Pyramid(width, channels)
        self.model.model.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GroupNorm(channels // 8, channels))
            for _ in range(LEVELS)
        )
        self.model.loss_function = self._remember
        for embed in (*self.model.class_embed, *self.model.model.decoder.class_embed):
            nn.init.constant_(embed.bias, -math.log((1 - PRIOR) / PRIOR))
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def _remember(self, *arguments: Any, **rest: Any) -> tuple[Tensor, dict[str, Tensor], None]:
        """Instead of transformers' loss: take the scores and boxes of all decoder layers."""
        classes, boxes = arguments[5], arguments[6]
        self._predicted = list(zip(classes, boxes, strict=True))
        return classes.sum() * 0, {}, None

    def forward(
        self, features: Float[Tensor, "B h w D"], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return scores (B, Q, K), before the sigmoid, and boxes (B, Q, 4), from 0 to 1; in training also the losses.

        Boxes of targets are in the head's own pixels: a patch has 16 by 16.
        """
        output = self.model(features.permute(0, 3, 1, 2), labels=[] if targets is not None else None)
        predictions = output.logits, output.pred_boxes
        if targets is None:
            return predictions, {}
        sides = torch.tensor([features.shape[2], features.shape[1]] * 2, device=features.device) * PATCH
        truth = [(to_centers(each["boxes"] / sides), each["labels"] - 1) for each in targets]
        layers, self._predicted = self._predicted, []
        pairs = [
            assign(to_corners(each), to_corners(boxes), QUERY_OVERLAP, self.config.matches)
            for each, (boxes, _) in zip(output.init_reference_points, truth, strict=True)
        ]
        total: dict[str, Tensor] = {}
        for scores, boxes in layers:
            for name, value in _losses(scores, boxes, truth, pairs, torch.ones_like(scores[..., 0])).items():
                total[name] = total.get(name, 0) + value
        return predictions, {**total, **self._proposal_losses(output, truth, features.shape[1:3])}

    def _proposal_losses(
        self, output: Any, truth: list[tuple[Tensor, Tensor]], grid: Sequence[int]
    ) -> dict[str, Tensor]:
        """The first stage: whether an anchor is of any object, and its box."""
        boxes, scores = output.enc_outputs_coord_logits.sigmoid(), output.enc_outputs_class[..., :1]
        own = to_corners(anchors(self.model.model.backbone.sizes(grid)).to(boxes.device))
        low, high = PROPOSAL_OVERLAPS
        pairs = [assign(own, to_corners(each), high, self.config.matches) for each, _ in truth]
        counted = torch.stack([_is_clear(own, to_corners(each), low) for each, _ in truth])
        for row, (index, _) in enumerate(pairs):
            counted[row, index] = 1.0
        counted = counted * output.enc_outputs_coord_logits.isfinite().all(-1)
        agnostic = [(each, torch.zeros_like(labels)) for each, labels in truth]
        losses = _losses(scores, boxes, agnostic, pairs, counted)
        return {f"proposal_{name}": value for name, value in losses.items()}

    @torch.no_grad()
    def detect(self, features: Float[Tensor, "B h w D"], sizes: Sequence[tuple[int, int]]) -> list[Detected]:
        """Detect objects in images that are stored with these heights and widths."""
        (scores, boxes), _ = self(features)
        results = []
        images = zip(scores.float().sigmoid(), to_corners(boxes.float()), sizes, strict=True)
        for own, corners, (height, width) in images:
            count = min(10 * self.config.most, own.numel())
            best, index = own.flatten().topk(count)
            query, label = index // self.classes, index % self.classes
            pixels = (corners[query] * torch.tensor([width, height] * 2, device=own.device)).clamp_min(0)
            limit = torch.tensor([width, height] * 2, device=own.device)
            pixels, config = torch.minimum(pixels, limit), self.config
            rows, lowered = suppress(pixels, best, label, config.overlap, config.soft, config.least_score)
            rows, lowered = rows[: config.most].cpu(), lowered[: config.most].cpu()
            labels = label.cpu()[rows] + 1
            results.append(Detected(pixels.cpu()[rows].numpy(), labels.numpy(), lowered.numpy(), None))
        return results


class _Pyramid(nn.Module):
    """Stands for transformers' backbone: a map (B, D, h, w) to the levels of a pyramid, with their masks."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.pyramid = SimplePyramid(width, channels)

    def forward(self, maps: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        levels = self.pyramid(maps.permute(0, 2, 3, 1)).values()
        return [(level, level.new_ones(len(level), *level.shape[-2:], dtype=torch.bool)) for level in levels]

    def sizes(self, grid: Sequence[int]) -> list[tuple[int, int]]:
        """Height and width of each level of a grid of patches."""
        h, w = grid
        half = -(-h // 2), -(-w // 2)
        return [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), half, (-(-half[0] // 2), -(-half[1] // 2))]


def anchors(sizes: Sequence[tuple[int, int]]) -> Float[Tensor, "N 4"]:
    """Return the boxes (x, y of the centre, width, height, from 0 to 1) that the patches of levels propose from."""
    boxes = []
    for level, (h, w) in enumerate(sizes):
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        side = torch.full_like(x, SMALLEST_ANCHOR * 2.0**level)
        boxes.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    return torch.cat(boxes)


def assign(
    boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], overlap: float, most: int
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Return pairs of boxes and objects (corners): each object has its best box, and at most `most`.

    A box is the object's that it overlaps most, if by `overlap` (IoU) or more, or if it is the object's best.
    """
    from torchvision.ops import box_iou

    if not len(truth):
        empty = torch.empty(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    overlaps = box_iou(truth, boxes)  # (m, Q)
    best, owner = overlaps.max(dim=0)
    is_own = best >= overlap
    first = overlaps.argmax(dim=1)
    objects = torch.arange(len(truth), device=boxes.device)
    is_own[first], owner[first] = True, objects
    own = torch.where(is_own[None] & (owner[None] == objects[:, None]), overlaps, -1)
    values, index = own.topk(min(most, own.shape[1]), dim=1)
    chosen = values >= 0
    return index[chosen], objects[:, None].expand_as(index)[chosen]


def _is_clear(boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], low: float) -> Float[Tensor, " Q"]:
    """1 for boxes that are background for sure."""
    from torchvision.ops import box_iou

    if not len(truth):
        return torch.ones(len(boxes), device=boxes.device)
    return (box_iou(truth, boxes).amax(dim=0) < low).float()


def _losses(
    scores: Float[Tensor, "B Q K"],
    boxes: Float[Tensor, "B Q 4"],
    truth: list[tuple[Tensor, Tensor]],
    pairs: list[tuple[Tensor, Tensor]],
    counted: Float[Tensor, "B Q"],
) -> dict[str, Tensor]:
    """Focal loss of the classes of counted predictions, L1 and GIoU of the boxes of pairs; sums over pairs' number."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    count = max(1, sum(len(index) for index, _ in pairs))
    labels = torch.zeros_like(scores)
    for row, ((index, target), (_, own)) in enumerate(zip(pairs, truth, strict=True)):
        labels[row, index, own[target]] = 1.0
    focal = sigmoid_focal_loss(scores.float(), labels.float(), alpha=0.25, gamma=2.0) * counted[..., None]
    predicted = torch.cat([own[index] for own, (index, _) in zip(boxes, pairs, strict=True)]).float()
    true_boxes = torch.cat([own[target] for (own, _), (_, target) in zip(truth, pairs, strict=True)])
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(true_boxes), reduction="sum")
    return {
        "class": COSTS["class"] * focal.sum() / count,
        "box": COSTS["box"] * F.l1_loss(predicted, true_boxes, reduction="sum") / count,
        "giou": COSTS["giou"] * giou / count,
    }


def to_corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centre, width and height to left, top, right and bottom."""
    center, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def to_centers(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Left, top, right and bottom to centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
