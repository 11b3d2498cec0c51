"""Estimate depth with a head like DPT's (Ranftl et al., 2021) over one layer's features (section 3, appendix B.3).

DPT builds maps of 4, 2, 1 and 1/2 times the grid from four layers; here they come from one layer, as in the paper's
analysis. From coarse to fine, each is added to the coarser ones and refined by residual convolutions. The head predicts
the logarithm of the depth and is trained with Eigen's scale-invariant loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, Standardize, fit_head, resized_maps, take
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.initialization import drawn_from
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Positive, Range, Share

Depths = Callable[[int], np.ndarray]
"""Returns the depth (H, W) of an item by index, in metres, 0 where unknown."""

Lengths = TypeVar("Lengths", np.ndarray, Tensor)

_FINE = 8  # pixels of the head's map along a patch's side


@dataclass(frozen=True, kw_only=True)
class DepthHeadConfig(Checked):
    """Size of the head and range of its depths."""

    channels: Annotated[int, Range(at_least=4)] = 256
    """Channels of the fused maps, as in DPT."""
    nearest: Positive = 1e-3
    """Metres: see `farthest`."""
    farthest: Positive = 10.0
    """Metres. Depths outside the range are ignored in training, and predictions are clipped to it (NYU's range)."""
    scale_invariance: Share = 0.85
    """Share of an image's error in overall scale that is ignored, from 0 to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nearest >= self.farthest:
            raise ConfigError(f"nearest is {self.nearest} m; it must be below farthest, {self.farthest} m")

    def within(self, depth: Lengths) -> Lengths:
        """Return where a depth in metres is known and in the range: bool of the same shape."""
        return (depth > self.nearest) & (depth < self.farthest)


@dataclass(frozen=True, kw_only=True)
class DepthConfig(DepthHeadConfig):
    """The head, and how to fit it to features."""

    fit: FitConfig = field(default_factory=FitConfig)

    def relative(self) -> DepthConfig:
        """Return the config of a scale-invariant head for objects up to 100 m away."""
        return replace(self, farthest=100.0, scale_invariance=1.0)


class DepthHead(nn.Module):
    """Features (B, h, w, D) to the logarithm of depth in metres (B, 8h, 8w)."""

    def __init__(self, width: int, config: DepthHeadConfig) -> None:
        super().__init__()
        channels = config.channels
        self.config = config
        self.standardize = Standardize(width)
        self.reassemble = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(width, channels, 1), nn.ConvTranspose2d(channels, channels, 4, 4)),
                nn.Sequential(nn.Conv2d(width, channels, 1), nn.ConvTranspose2d(channels, channels, 2, 2)),
                nn.Conv2d(width, channels, 1),
                nn.Sequential(nn.Conv2d(width, channels, 1), nn.Conv2d(channels, channels, 3, 2, 1)),
            ]
        )
        self.fuse = nn.ModuleList(Fusion(channels) for _ in range(4))
        cast(Fusion, self.fuse[-1]).first.requires_grad_(False)  # unused: nothing is coarser
        self.out = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(channels // 2, 1, 1)
        )
        last = cast(nn.Conv2d, self.out[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))

    def forward(self, features: Float[Tensor, "B h w D"]) -> Float[Tensor, "B H W"]:
        maps = self.standardize(features)
        levels = [level(maps) for level in self.reassemble]
        sizes = [tuple(_FINE * side for side in maps.shape[-2:]), *(level.shape[-2:] for level in levels)]
        joined = None
        for level in (3, 2, 1, 0):
            joined = self.fuse[level](levels[level], joined, sizes[level])
        return self.out(joined)[:, 0].float()

    def begin_with(self, depths: Float[Tensor, "n H W"]) -> None:
        """Make an untrained head predict the typical depth of images; DataError if no depth is in range."""
        valid = [depth[self.config.within(depth)] for depth in depths]
        known = [values.log().mean().item() for values in valid if len(values)]
        if not known:
            nearest, farthest = self.config.nearest, self.config.farthest
            raise DataError(f"no training image has depths of {nearest:g} to {farthest:g} m")
        nn.init.constant_(cast(Tensor, cast(nn.Conv2d, self.out[-1]).bias), float(np.mean(known)))

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "B h w D"], size: tuple[int, int]) -> Float[Tensor, "B H W"]:
        depth = self(features).exp().clamp(self.config.nearest, self.config.farthest)
        return F.interpolate(depth[:, None], size, mode="bilinear")[:, 0]


class Fusion(nn.Module):
    """Adds a map to the coarser ones, refines the sum, and resizes it to the next level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Residual(channels), Residual(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        joined = level if coarser is None else coarser + self.first(level)
        return self.project(F.interpolate(self.second(joined), size, mode="bilinear"))


class Residual(nn.Module):
    """Two convolutions with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(F.relu(x))))


def fit_depth(features: Maps, depths: Depths, config: DepthConfig | None = None, track: Track = untracked) -> DepthHead:
    """Fit a head on features and depths, starting from the typical depth; DataError if no depth is in the range."""
    config = config or DepthConfig()
    with drawn_from(torch.Generator().manual_seed(config.fit.seed)):
        head = DepthHead(features.shape[-1], config)
    head.standardize.measure(features)
    size = _FINE * features.shape[1], _FINE * features.shape[2]
    targets = resized_maps(depths, len(features), size, torch.float32)
    head.begin_with(targets)

    def loss(rows: np.ndarray) -> Tensor:
        return scale_invariant_loss(head(take(features, rows)), targets[torch.from_numpy(rows)], config)

    fit_head(head, loss, len(features), config.fit, "fitting a depth head", track)
    return head


def scale_invariant_loss(
    log_depth: Float[Tensor, "B H W"], target: Float[Tensor, "B H W"], config: DepthHeadConfig
) -> Float[Tensor, ""]:
    """Return Eigen's loss (2014), averaged over images: √(mean of squared log errors − λ · squared mean of log errors).

    λ is `scale_invariance`. Pixels with unknown depth, or depth outside the range, are ignored.
    """
    known = config.within(target)
    error = torch.where(known, log_depth - target.clamp_min(1e-6).log(), 0.0).flatten(1)
    count = known.flatten(1).sum(1).clamp_min(1)
    square, mean = (error**2).sum(1) / count, error.sum(1) / count
    return (square - config.scale_invariance * mean**2 + 1e-6).sqrt().mean()
