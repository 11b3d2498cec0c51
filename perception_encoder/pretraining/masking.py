"""Draw the patches that mask regularisation hides (step 9 of section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MaskRegularization:
    """A copy of some of a batch's images is masked, and its tokens are pulled to those of the whole image."""

    every: int = 16
    """One image in so many has a masked copy (8,192 of 131,072 in the paper)."""
    ratio: float = 0.4
    """Share of the patches that are hidden."""
    weight: float = 1.0
    """Of its loss beside the contrastive one (the paper names none)."""

    def draw(self, images: int, patches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of a batch to copy (M,), evenly spread, and what to hide of each: bool (M, P), as many of each."""
        rows = torch.arange(0, images, self.every)
        hidden = max(1, round(self.ratio * patches))
        order = torch.rand(len(rows), patches, generator=generator).argsort(dim=1)
        return rows, order < hidden
