"""Build a pyramid of feature maps from one layer of a plain ViT.

The simple pyramid of ViTDet (Li et al., 2022) has 4, 2, 1 and 1/2 times the grid and one coarser level, by transposed
convolutions or pooling, each projected by two convolutions with layer norms. That of the paper's DETA has 2, 1 and 1/2
times the grid, each projected by one convolution, and two coarser levels by convolutions of stride 2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import Standardize

SCALES = (4.0, 2.0, 1.0, 0.5)


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


class DetaPyramid(nn.Module):
    """Features (B, h, w, D) to five maps (B, C, …) of 2, 1, 1/2, 1/4 and 1/8 times the grid."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.standardize = Standardize(width)
        self.finest = nn.ConvTranspose2d(width, width // 2, 2, 2)
        convolutions = [
            nn.Conv2d(width // 2, channels, 1),
            nn.Conv2d(width, channels, 1),
            nn.Conv2d(width, channels, 1),
            nn.Conv2d(width, channels, 3, 2),
            nn.Conv2d(channels, channels, 3, 2),
        ]
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(cast(Tensor, convolution.bias))
        self.project = nn.ModuleList(
            nn.Sequential(convolution, nn.GroupNorm(channels // 8, channels)) for convolution in convolutions
        )

    def forward(self, features: Float[Tensor, "B h w D"]) -> list[Tensor]:
        maps = self.standardize(features)
        coarse = F.max_pool2d(maps, 2, 2, ceil_mode=True)
        sources = [self.finest(maps), maps, coarse, _with_edge(coarse)]
        levels = [project(source) for project, source in zip(self.project[:-1], sources, strict=True)]
        return [*levels, self.project[-1](_with_edge(levels[-1]))]

    def sizes(self, grid: Sequence[int]) -> list[tuple[int, int]]:
        """Return the height and width of each level for a grid of patches."""
        sizes = [(2 * grid[0], 2 * grid[1])]
        for _ in range(len(self.project) - 1):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return sizes


def _with_edge(maps: Tensor) -> Tensor:
    """Pad for a 3x3 kernel. On maps of one patch, in bfloat16 on some CPUs, a convolution that pads by itself reads
    foreign memory in its backward pass (torch 2.13)."""
    return F.pad(maps, (1, 1, 1, 1))
