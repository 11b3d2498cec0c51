"""The batch of image-text training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageTextBatch:
    """Pictures, the distinct captions drawn for them, and which captions are true of which pictures."""

    pictures: Tensor
    """uint8 (B, 3, H, W)."""
    tokens: Tensor
    """int64 (U, T), cut to the longest caption."""
    positives: Tensor
    """bool (B, U)."""

    def __len__(self) -> int:
        return len(self.pictures)
