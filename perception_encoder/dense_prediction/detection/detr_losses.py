"""The losses of DETA: which predictions an object is assigned to, and how far they are from it.

Both stages assign several predictions to an object by their overlap (Ouyang-Zhang et al., "NMS Strikes Back", 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PROPOSAL_OVERLAP, QUERY_OVERLAP = 0.7, 0.6
"""From this IoU with an object on, an anchor or a query is its."""


PROPOSAL_SAMPLE, QUERY_SHARE = 128, 0.25
"""Of an image's anchors, or as a share of its queries, so many that are some object's are drawn at most."""


COSTS = {"class": 1.0, "box": 5.0, "giou": 2.0}
"""Weights of the losses, those of the published scripts; the code's default for classes, 2, is used by none of them."""


Truth = Sequence[tuple[Tensor, Tensor]]
"""Of each image: the objects' boxes (m, 4), centre, width and height from 0 to 1, and their classes (m,) from 0."""


Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""Predictions of an image, and the objects that they are assigned to."""


def query_losses(
    layers: Sequence[tuple[Tensor, Tensor]], references: Float[Tensor, "B Q 4"], truth: Truth, most: int
) -> dict[str, Tensor]:
    """Return the second stage's losses without their weights: of classes and boxes, summed over the decoder's layers.

    `layers`: scores (B, Q, K) and boxes (B, Q, 4). Queries are assigned once, by the boxes that they begin with.
    """
    sample = int(QUERY_SHARE * references.shape[1])
    pairs = _assign_images(references, truth, QUERY_OVERLAP, most, sample)
    total: dict[str, Tensor] = {}
    for scores, boxes in layers:
        for name, value in _losses(scores, boxes, truth, pairs).items():
            total[name] = total[name] + value if name in total else value
    return total


def proposal_losses(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N 4"],
    anchors: Float[Tensor, "B N 4"],
    truth: Truth,
    most: int,
) -> dict[str, Tensor]:
    """Return the first stage's losses without their weights: whether an anchor is of any object, and its box.

    Any object is class 0; every anchor that is no object's is background, however much it overlaps one.
    """
    pairs = _assign_images(anchors, truth, PROPOSAL_OVERLAP, most, PROPOSAL_SAMPLE)
    return _losses(scores, boxes, [(each, torch.zeros_like(labels)) for each, labels in truth], pairs)


def _assign_images(boxes: Tensor, truth: Truth, overlap: float, most: int, sample: int) -> list[Pairs]:
    return [
        assign(to_corners(own), to_corners(objects), overlap, most, sample)
        for own, (objects, _) in zip(boxes, truth, strict=True)
    ]


def assign(boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], overlap: float, most: int, sample: int) -> Pairs:
    """Return pairs of boxes and objects (corners), as DETA assigns them.

    A box is the object's that it overlaps most, if by `overlap` (IoU) or more, or if no box overlaps some object more.
    Of these, `sample` are drawn at most, by torch's generator. An object has as many as were drawn for it, `most` at
    most: those that overlap it most, whosever they are.
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
    """Focal loss of all predictions' classes, L1 and GIoU of the boxes of pairs: sums, over the number of objects."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    count = _object_count(truth, scores.device)
    labels = torch.zeros_like(scores)
    for row, ((index, target), (_, own)) in enumerate(zip(pairs, truth, strict=True)):
        classes = torch.full_like(labels[row, :, 0], -1, dtype=torch.int64)
        classes[index] = own[target]  # a box of two objects has the class of one
        known = torch.nonzero(classes >= 0)[:, 0]
        labels[row, known, classes[known]] = 1.0
    focal = sigmoid_focal_loss(scores.float(), labels.float(), alpha=0.25, gamma=2.0)
    predicted = torch.cat([own[index] for own, (index, _) in zip(boxes, pairs, strict=True)]).float()
    true_boxes = torch.cat([own[target] for (own, _), (_, target) in zip(truth, pairs, strict=True)])
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(true_boxes), reduction="sum", eps=1e-12)
    return {
        "class": focal.sum() / count,
        "box": F.l1_loss(predicted, true_boxes, reduction="sum") / count,
        "giou": giou / count,
    }


def _object_count(truth: Truth, device: torch.device) -> Tensor:
    """The number of a batch's objects, at least 1; of several processes their mean, so that all weigh objects alike."""
    count = torch.tensor(float(sum(len(labels) for _, labels in truth)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp_min(1.0)


def to_corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centre, width and height to left, top, right and bottom."""
    center, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def to_centers(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Left, top, right and bottom to centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
