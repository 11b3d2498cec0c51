"""Doubles among detections: dropped, or lowered in score (soft-NMS); detections of several views of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from perception_encoder.dense_prediction.detection.mask_rcnn import Detected

QUAD = 0.5
"""Factor of the quadratic by which soft-NMS lowers scores."""


def suppress(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    overlap: float,
    soft: bool = False,
    least: float = 0.0,
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Return which detections stay, best first, and their scores; only those of one class are compared.

    `overlap`: IoU from which the worse of two is dropped; with `soft` its score is multiplied by (1 - IoU²) / 2
    instead. Those of a score below `least` are dropped. The published scripts name this method "quad", of scale 0.5
    above an IoU of 0.7; its formula was not at hand, so this one is ours.
    """
    from torchvision.ops import batched_nms

    if not soft:
        rows = batched_nms(boxes, scores, labels, overlap)
        rows = rows[scores[rows] >= least]
        return rows, scores[rows]
    groups = [torch.nonzero(labels == each)[:, 0] for each in labels.unique()]
    lowered = torch.cat([_soften(boxes, scores, rows, overlap) for rows in groups] or [scores])
    order = torch.cat(groups or [labels])
    best = lowered.argsort(descending=True, stable=True)
    best = best[lowered[best] >= least]
    return order[best], lowered[best]


def _soften(boxes: Tensor, scores: Tensor, rows: Tensor, overlap: float) -> Tensor:
    """The lowered scores of one class's detections, in the order of `rows`."""
    from torchvision.ops import box_iou

    overlaps, own = box_iou(boxes[rows], boxes[rows]), scores[rows].clone()
    left = torch.ones_like(own, dtype=torch.bool)
    for _ in range(len(own)):
        best = int(torch.where(left, own, -1.0).argmax())
        left[best] = False
        lowered = own * QUAD * (1 - overlaps[best] ** 2)
        own = torch.where(left & (overlaps[best] > overlap), lowered, own)
    return own


def join_views(views: Sequence[Detected], overlap: float, soft: bool, most: int) -> Detected:
    """Join the detections of several views of an image, such as scales and a mirrored one, without masks."""
    boxes = np.concatenate([each.boxes for each in views])
    scores = np.concatenate([each.scores for each in views])
    labels = np.concatenate([each.labels for each in views])
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
    rows, own = suppress(*tensors, overlap, soft)
    rows, own = rows[:most], own[:most]
    return Detected(boxes[rows.numpy()], labels[rows.numpy()], own.numpy(), None)


def large(detected: Detected, side: float) -> Detected:
    """Return the detections of an area above a square's of this side, in stored pixels."""
    width, height = (detected.boxes[:, 2:] - detected.boxes[:, :2]).T
    good = width * height > side**2
    masks = None if detected.masks is None else detected.masks[good]
    return Detected(detected.boxes[good], detected.labels[good], detected.scores[good], masks)


def mirrored(detected: Detected, width: int) -> Detected:
    """Return the detections of a mirrored image of `width` pixels as those of the image."""
    boxes = detected.boxes.copy()
    boxes[:, [0, 2]] = width - detected.boxes[:, [2, 0]]
    masks = None if detected.masks is None else detected.masks[:, :, ::-1]
    return Detected(boxes, detected.labels, detected.scores, masks)
