"""Labels carried through a video by likeness of patches alone (section 3): nothing is trained.

A patch asks the first frame and the last frames before its own. Among their patches near its own place it takes those
most like it, and its labels are theirs, weighted by a softmax of the cosines. The protocol is the one that DINO brought
to DAVIS: 7 frames, 5 patches within 12 of the place, temperature 0.1. Here a patch of the first frame has the shares
of its pixels as labels, not the label of one pixel, which is fairer to coarse grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from perception_encoder.errors import ConfigError, ShapeError

_TILE = 16  # patches along the side of what is looked up at a time


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """Whom a patch asks."""

    frames: int = 7
    """Frames before its own; the first is asked beside them."""
    nearest: int = 5
    """How many of the patches most like it, over all those frames."""
    reach: int = 12
    """How far a patch may have moved, in patches along each axis."""
    temperature: float = 0.1
    """Of the softmax over cosines."""

    def __post_init__(self) -> None:
        for name in ("frames", "nearest", "reach"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0")


@torch.inference_mode()
def propagate(
    features: Float[Tensor, "F h w D"], first: Int[Tensor, "H W"], config: PropagationConfig | None = None
) -> Int[Tensor, "F H W"]:
    """Labels of every frame from those of the first, whose labels are 0 (background) to K - 1.

    Returns int64; the first frame's are given back as they are. ShapeError unless there are two frames or more.
    """
    config = config or PropagationConfig()
    if features.ndim != 4 or len(features) < 2:
        raise ShapeError(
            f"features have the shape {tuple(features.shape)}; at least two frames (F, h, w, D) are needed"
        )
    count, h, w, _ = features.shape
    unit = F.normalize(features.float(), dim=-1)
    classes = F.one_hot(first, int(first.max()) + 1).permute(2, 0, 1).float()  # (K, H, W)
    shares = F.adaptive_avg_pool2d(classes, (h, w)).permute(1, 2, 0)  # (h, w, K)
    soft = shares.new_empty(count, *shares.shape)
    soft[0] = shares
    found = [first]
    for index in range(1, count):
        asked = [0, *range(max(1, index - config.frames), index)]
        soft[index] = _ask(unit[index], unit[asked], soft[asked], config)
        found.append(_to_pixels(soft[index], first.shape[0], first.shape[1]))
    return torch.stack(found)


def _ask(own: Tensor, asked: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Soft labels (h, w, K) of a frame's unit features (h, w, D) from those of others (C, h, w, D), (C, h, w, K)."""
    h, w, _ = own.shape
    found = labels.new_empty(h, w, labels.shape[-1])
    for top in range(0, h, _TILE):
        for left in range(0, w, _TILE):
            rows, columns = range(top, min(h, top + _TILE)), range(left, min(w, left + _TILE))
            found[rows.start : rows.stop, columns.start : columns.stop] = _ask_tile(
                own, asked, labels, rows, columns, config
            )
    return found


def _ask_tile(
    own: Tensor, asked: Tensor, labels: Tensor, rows: range, columns: range, config: PropagationConfig
) -> Tensor:
    """The same for a tile, which asks only the patches within its reach."""
    h, w, _ = own.shape
    asked_rows = range(max(0, rows.start - config.reach), min(h, rows.stop + config.reach))
    asked_columns = range(max(0, columns.start - config.reach), min(w, columns.stop + config.reach))
    window = slice(asked_rows.start, asked_rows.stop), slice(asked_columns.start, asked_columns.stop)
    context = asked[:, window[0], window[1]].flatten(1, 2)  # (C, M, D)
    given = labels[:, window[0], window[1]].flatten(0, 2)  # (C·M, K)
    queries = own[rows.start : rows.stop, columns.start : columns.stop].flatten(0, 1)  # (N, D)
    near = (
        _near(rows, asked_rows, config.reach)[:, None, :, None] & _near(columns, asked_columns, config.reach)[:, None]
    )
    far = ~near.flatten(2).flatten(0, 1).to(own.device)  # (N, M)
    cosines = torch.stack([(queries @ frame.T).masked_fill_(far, -torch.inf) for frame in context], dim=1).flatten(1)
    best, places = cosines.topk(min(config.nearest, cosines.shape[1]), dim=1)
    weights = (best / config.temperature).softmax(dim=1)
    return torch.einsum("nk,nkc->nc", weights, given[places]).unflatten(0, (len(rows), len(columns)))


def _near(own: range, other: range, reach: int) -> Tensor:
    return (torch.tensor(own)[:, None] - torch.tensor(other)[None]).abs() <= reach


def _to_pixels(soft: Tensor, height: int, width: int) -> Tensor:
    """The likeliest label of each pixel, (H, W), after each label's map is stretched to 0–1 as the protocol has it."""
    maps = F.interpolate(soft.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]  # (K, H, W)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = high - low
    maps = torch.where(spread > 0, (maps - low) / spread.clamp_min(1e-12), maps)
    best, label = maps[0], torch.zeros(height, width, dtype=torch.int64, device=maps.device)
    for number in range(1, len(maps)):  # argmax over the slowest axis takes ten times as long
        label = torch.where(maps[number] > best, number, label)
        best = torch.maximum(best, maps[number])
    return label
