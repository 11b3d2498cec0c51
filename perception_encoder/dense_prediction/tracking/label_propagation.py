"""Labels carried through a video by similarity of patches alone (section 3): nothing is trained.

A patch is compared with the first frame and the last frames before its own. Of their patches near its own position the
most similar ones vote, and its labels are theirs, weighted by a softmax of the cosines. The protocol is the one that
DINO brought to DAVIS: 7 frames, 5 patches within 12 of the position, temperature 0.1. Here a patch of the first frame
has the shares of its pixels as labels, not the label of one pixel, which is fairer to coarse grids.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from perception_encoder.errors import ConfigError, ShapeError

_ROUNDING = 1e-4  # share of a map's largest value: what differs by less is one value
_TILE = 16  # patches along the side of a tile, which is compared at a time


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """The patches that a patch is compared with."""

    frames: int = 7
    """Frames before its own; the first is used beside them."""
    nearest: int = 5
    """The number of most similar patches, over all those frames."""
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


def propagate(
    features: Float[Tensor, "F h w D"], first: Int[Tensor, "H W"], config: PropagationConfig | None = None
) -> Int[Tensor, "F H W"]:
    """Labels of every frame from those of the first, whose labels are 0 (background) to K - 1.

    Returns int64; the first frame's are returned unchanged. ShapeError unless there are two frames or more.
    """
    if features.ndim != 4 or len(features) < 2:
        raise ShapeError(
            f"features have the shape {tuple(features.shape)}; at least two frames (F, h, w, D) are needed"
        )
    propagator = LabelPropagator(features[0], first, config)
    return torch.stack([first, *(propagator.step(frame) for frame in features[1:])])


class LabelPropagator:
    """Carries labels through a video frame by frame; the first frame and the last `config.frames` are in memory."""

    @torch.inference_mode()
    def __init__(
        self, features: Float[Tensor, "h w D"], labels: Int[Tensor, "H W"], config: PropagationConfig | None = None
    ) -> None:
        """`features`, `labels`: of the first frame; labels are 0 (background) to K - 1."""
        self.config, self.size = config or PropagationConfig(), (labels.shape[0], labels.shape[1])
        classes = F.one_hot(labels, int(labels.max()) + 1).permute(2, 0, 1).float()  # (K, H, W)
        shares = F.adaptive_avg_pool2d(classes, (features.shape[0], features.shape[1])).permute(1, 2, 0)  # (h, w, K)
        self.first = F.normalize(features.float(), dim=-1), shares
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.config.frames)

    @torch.inference_mode()
    def step(self, features: Float[Tensor, "h w D"]) -> Int[Tensor, "H W"]:
        """Return the next frame's labels, int64."""
        unit = F.normalize(features.float(), dim=-1)
        context, labels = (torch.stack(each) for each in zip(self.first, *self.recent, strict=True))
        soft = _vote(unit, context, labels, self.config)
        self.recent.append((unit, soft))
        return _to_pixels(soft, *self.size)


def _vote(own: Tensor, context: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Return soft labels (h, w, K) of a frame's unit features (h, w, D) from others (C, h, w, D), (C, h, w, K)."""
    h, w, _ = own.shape
    voted = labels.new_empty(h, w, labels.shape[-1])
    for top in range(0, h, _TILE):
        for left in range(0, w, _TILE):
            rows, columns = range(top, min(h, top + _TILE)), range(left, min(w, left + _TILE))
            voted[rows.start : rows.stop, columns.start : columns.stop] = _vote_tile(
                own, context, labels, rows, columns, config
            )
    return voted


def _vote_tile(
    own: Tensor, context: Tensor, labels: Tensor, rows: range, columns: range, config: PropagationConfig
) -> Tensor:
    """Return the soft labels of a tile, which is compared only with patches within its reach."""
    h, w, _ = own.shape
    near_rows = range(max(0, rows.start - config.reach), min(h, rows.stop + config.reach))
    near_columns = range(max(0, columns.start - config.reach), min(w, columns.stop + config.reach))
    window = slice(near_rows.start, near_rows.stop), slice(near_columns.start, near_columns.stop)
    candidates = context[:, window[0], window[1]].flatten(1, 2)  # (C, M, D)
    votes = labels[:, window[0], window[1]].flatten(0, 2)  # (C·M, K)
    queries = own[rows.start : rows.stop, columns.start : columns.stop].flatten(0, 1)  # (N, D)
    near = _near(rows, near_rows, config.reach)[:, None, :, None] & _near(columns, near_columns, config.reach)[:, None]
    far = ~near.flatten(2).flatten(0, 1).to(own.device)  # (N, M)
    cosines = torch.stack([(queries @ frame.T).masked_fill_(far, -torch.inf) for frame in candidates], dim=1).flatten(1)
    best, indices = cosines.topk(min(config.nearest, cosines.shape[1]), dim=1)
    weights = (best / config.temperature).softmax(dim=1)
    return torch.einsum("nk,nkc->nc", weights, votes[indices]).unflatten(0, (len(rows), len(columns)))


def _near(own: range, other: range, reach: int) -> Tensor:
    return (torch.tensor(own)[:, None] - torch.tensor(other)[None]).abs() <= reach


def _to_pixels(soft: Tensor, height: int, width: int) -> Tensor:
    """Return the most probable label of each pixel, (H, W), with each label's map stretched to 0–1 by the protocol."""
    maps = F.interpolate(soft.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]  # (K, H, W)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = high - low
    maps = torch.where(spread > _ROUNDING * high, (maps - low) / spread.clamp_min(1e-12), maps)
    best, label = maps[0], torch.zeros(height, width, dtype=torch.int64, device=maps.device)
    for number in range(1, len(maps)):  # argmax over the slowest axis takes ten times as long
        label = torch.where(maps[number] > best, number, label)
        best = torch.maximum(best, maps[number])
    return label
