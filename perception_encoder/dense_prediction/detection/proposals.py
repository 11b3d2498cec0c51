"""The boxes that a two-stage DETR begins with: anchors of every patch, and the best of what is made of them.

As in DETA (Ouyang-Zhang et al., "NMS Strikes Back", 2022), several anchors belong to an object, so doubles among the
proposals are suppressed and each level of the pyramid has its share of the queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

SMALLEST_ANCHOR = 0.05
"""Share of the image's sides of an anchor of the finest level; each level doubles it."""
CONSIDERED, DOUBLE = 1000, 0.9
"""The best proposals of a level, and the IoU from which two of a level are the same."""


def anchors(sizes: Sequence[tuple[int, int]], inside: Float[Tensor, "B L 2"] | None = None) -> Float[Tensor, "B N 4"]:
    """Return the boxes (x, y of the centre, width, height, from 0 to 1) that the patches of levels propose from.

    `inside`: height and width, in patches, of the part of each level that an image covers; by default all of it, and B
    is 1.
    """
    if inside is None:
        inside = torch.tensor([sizes], dtype=torch.float32)
    boxes = []
    for level, (h, w) in enumerate(sizes):
        rows, columns = (torch.arange(side, device=inside.device) + 0.5 for side in (h, w))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        center = torch.stack([x, y], dim=-1) / inside[:, level, None, None].flip(-1)  # (B, h, w, 2)
        side = torch.full_like(center, SMALLEST_ANCHOR * 2.0**level)
        boxes.append(torch.cat([center, side], dim=-1).flatten(1, 2))
    return torch.cat(boxes, dim=1)


def choose_proposals(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], levels: Int[Tensor, " N"], count: int
) -> Int[Tensor, " Q"]:
    """Return the indices of an image's best proposals; `boxes`: their corners; `levels`: where each is from.

    Every level has an equal share if it has as many that differ, and the best others fill up.
    """
    from torchvision.ops import batched_nms

    count = min(count, len(scores))
    best = []
    for level in levels.unique():
        rows = torch.nonzero(levels == level)[:, 0]
        best.append(rows[scores[rows].topk(min(CONSIDERED, len(rows))).indices])
    candidates = torch.cat(best)
    own = levels[candidates]
    different = candidates[batched_nms(boxes[candidates].float(), scores[candidates].float(), own, DOUBLE)]
    if len(different) < count:
        return scores.topk(count).indices
    is_level = levels[different][None] == levels.unique()[:, None]  # (L, n)
    chosen = (is_level & (is_level.cumsum(dim=1) <= count // len(is_level))).any(dim=0)
    chosen[torch.nonzero(~chosen)[: count - int(chosen.sum()), 0]] = True
    return different[chosen]
