"""Hide blocks of patches from the student, as MaskFeat does (appendix B.3): what is hidden is the zero vector.

LayerScale is all that the paper adds to the parameters, so the mask token is not learned: a hidden patch keeps only its
position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from perception_encoder.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BlockMasking:
    """Which patches are hidden."""

    share: float = 0.75
    """Of the blocks."""
    block: int = 2
    """Patches along a block's side; blocks at the right and lower edges are smaller if the grid is not a multiple."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"masking.share is {self.share}; it must be at least 0 and below 1")
        if self.block < 1:
            raise ConfigError(f"masking.block is {self.block}; it must be at least 1")

    def draw(self, images: int, grid: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "B P"]:
        """What to hide of each image; as many blocks of each, at random."""
        rows, columns = (-(-side // self.block) for side in grid)
        order = torch.rand(images, rows * columns, generator=generator).argsort(dim=1)
        hidden = order < round(self.share * rows * columns)
        patches = hidden.unflatten(1, (rows, columns)).repeat_interleave(self.block, 1).repeat_interleave(self.block, 2)
        return patches[:, : grid[0], : grid[1]].flatten(1)
