"""Losses of DETA, which assigns several predictions to an object by overlap.

See Ouyang-Zhang et al., "NMS Strikes Back", 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PROPOSAL_OVERLAP, QUERY_OVERLAP = 0.7, 0.6
"""Minimum IoU at which an anchor or a query is assigned to an object."""
PROPOSAL_SAMPLE, QUERY_SHARE = 128, 0.25
"""Maximum number of assigned anchors drawn per image, and maximum share of assigned queries."""
COSTS = {"class": 1.0, "box": 5.0, "giou": 2.0}
"""Weights of the losses in all published scripts; the code's default for classes, 2, is unused."""
Truth = Sequence[tuple[Tensor, Tensor]]
"""Per image: boxes of objects (m, 4) as centre, width and height from 0 to 1, and classes (m,) from 0."""
Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""Predictions of an image and the objects assigned to them."""


def query_losses(
    layers: Sequence[tuple[Tensor, Tensor]], references: Float[Tensor, "B Q 4"], truth: Truth, most: int
) -> dict[str, Tensor]:
    """Return the second stage's unweighted losses of classes and boxes, summed over the decoder's layers.

    `layers`: scores (B, Q, K) and boxes (B, Q, 4). Queries are assigned once, by the boxes that they begin with.
    """
    sample = int(QUERY_SHARE * references.shape[1])
    pairs = _assign_images(references, truth, QUERY_OVERLAP, most, sample)
    losses = [_losses(scores, boxes, truth, pairs) for scores, boxes in layers]
    return {name: torch.stack([item[name] for item in losses]).sum() for name in COSTS}


def proposal_losses(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N 4"],
    anchors: Float[Tensor, "B N 4"],
    truth: Truth,
    most: int,
) -> dict[str, Tensor]:
    """Return the first stage's unweighted losses: whether an anchor belongs to any object, and its box.

    Any object is class 0; every unassigned anchor is background, however much it overlaps an object.
    """
    pairs = _assign_images(anchors, truth, PROPOSAL_OVERLAP, most, PROPOSAL_SAMPLE)
    return _losses(scores, boxes, [(objects, torch.zeros_like(labels)) for objects, labels in truth], pairs)


def _assign_images(boxes: Tensor, truth: Truth, overlap: float, most: int, sample: int) -> list[Pairs]:
    return [
        assign(to_corners(predicted), to_corners(objects), overlap, most, sample)
        for predicted, (objects, _) in zip(boxes, truth, strict=True)
    ]


def assign(boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], overlap: float, most: int, sample: int) -> Pairs:
    """Return the pairs of boxes and objects (corners) that DETA assigns.

    A box belongs to the object that it overlaps most, if their IoU is at least `overlap` or the object's highest. At
    most `sample` of these are drawn, by torch's generator. An object is assigned as many boxes as were drawn for it, at
    most `most`: those that overlap it most, whichever object they belong to.
    """
    from torchvision.ops import box_iou

    if not len(truth):
        empty = torch.empty(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    overlaps = box_iou(truth, boxes)  # (m, Q)
    best, owner = overlaps.max(dim=0)
    is_best = (overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0)
    positive = torch.nonzero((best >= overlap) | is_best)[:, 0]
    drawn = positive[torch.randperm(len(positive), device=positive.device)[:sample]]
    counts = torch.bincount(owner[drawn], minlength=len(truth)).clamp_max(most)
    index = overlaps.topk(min(most, len(boxes)), dim=1).indices
    chosen = torch.arange(index.shape[1], device=index.device) < counts[:, None]
    objects = torch.arange(len(truth), device=index.device)[:, None].expand_as(index)
    return index[chosen], objects[chosen]


def _losses(
    scores: Float[Tensor, "B Q K"], boxes: Float[Tensor, "B Q 4"], truth: Truth, pairs: Sequence[Pairs]
) -> dict[str, Tensor]:
    """Return the focal loss of all classes, and L1 and GIoU of assigned boxes, divided by the number of objects."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    count = _object_count(truth, scores.device)
    labels = torch.zeros_like(scores)
    for row, ((index, target), (_, objects)) in enumerate(zip(pairs, truth, strict=True)):
        classes = torch.full_like(labels[row, :, 0], -1, dtype=torch.int64)
        classes[index] = objects[target]  # a box of two objects has the class of one
        known = torch.nonzero(classes >= 0)[:, 0]
        labels[row, known, classes[known]] = 1.0
    focal = sigmoid_focal_loss(scores.float(), labels.float(), alpha=0.25, gamma=2.0)
    predicted = torch.cat([item[index] for item, (index, _) in zip(boxes, pairs, strict=True)]).float()
    true_boxes = torch.cat([objects[target] for (objects, _), (_, target) in zip(truth, pairs, strict=True)])
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(true_boxes), reduction="sum", eps=1e-12)
    return {
        "class": focal.sum() / count,
        "box": F.l1_loss(predicted, true_boxes, reduction="sum") / count,
        "giou": giou / count,
    }


def _object_count(truth: Truth, device: torch.device) -> Tensor:
    """Return the number of objects in a batch, averaged over processes so that objects weigh equally; at least 1."""
    count = torch.tensor(float(sum(len(labels) for _, labels in truth)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp_min(1.0)


def to_corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Convert centre, width and height to left, top, right and bottom."""
    center, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def to_centers(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Convert left, top, right and bottom to centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
