"""A feature pyramid of one layer of a plain ViT: maps of 4, 2, 1 and 1/2 times the grid, and a coarser one.

The simple pyramid of ViTDet (Li et al., 2022): every level is made of the same map, by transposed convolutions or
pooling, and projected to one width by two convolutions with layer norms.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import Standardize

SCALES = (4.0, 2.0, 1.0, 0.5)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of maps (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Features (B, h, w, D) to maps (B, C, …) by level, "0" the finest, "4" the coarsest."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.standardize = Standardize(width)
        half, quarter = max(channels, width // 2), max(channels, width // 4)  # a norm of few channels would level them
        finest = [nn.ConvTranspose2d(width, half, 2, 2), ChannelNorm(half), nn.GELU()]
        resize = [
            nn.Sequential(*finest, nn.ConvTranspose2d(half, quarter, 2, 2)),
            nn.ConvTranspose2d(width, half, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2, ceil_mode=True),
        ]
        widths = (quarter, half, width, width)
        self.levels = nn.ModuleList(
            nn.Sequential(
                own,
                nn.Conv2d(wide, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for own, wide in zip(resize, widths, strict=True)
        )

    def forward(self, features: Float[Tensor, "B h w D"]) -> OrderedDict[str, Tensor]:
        maps = self.standardize(features)
        levels = OrderedDict((str(number), level(maps)) for number, level in enumerate(self.levels))
        levels[str(len(self.levels))] = F.max_pool2d(levels[str(len(self.levels) - 1)], 1, 2)
        return levels
