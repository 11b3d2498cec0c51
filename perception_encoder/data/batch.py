"""Define the batch of image-text training, or one rank's part of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=Any)
"""A dataclass that holds tensors."""


@dataclass(frozen=True)
class ImageTextBatch:
    """Images, the distinct captions drawn for them, and which captions are true of which images."""

    images: Tensor
    """uint8 (b, 3, H, W)."""
    tokens: Tensor
    """int64 (u, T), cut to the longest caption."""
    image_positives: Tensor
    """Which captions of the whole batch are true of these images: bool (b, U), or float where images are mixed."""
    text_positives: Tensor
    """Of which images of the whole batch these captions are true: (u, B), likewise."""
    own_images: slice = field(default_factory=lambda: slice(None))
    """Which rows of the whole batch `images` are."""
    own_tokens: slice = field(default_factory=lambda: slice(None))
    """Which of its captions `tokens` are."""
    texts: tuple[str, ...] = ()
    """The captions that `tokens` are, in words."""
    masked: Tensor | None = None
    """Rows of `images` whose copies are masked, int64 (M,)."""
    masks: Tensor | None = None
    """What is hidden of them, bool (M, h·w)."""
    masked_share: float = 0.0
    """Share of the whole batch's masked copies that these are."""
    left_out: int = 0
    """Samples that could not be read and were replaced by others, since the run was started or resumed."""

    def __len__(self) -> int:
        """Images of the whole batch."""
        return self.text_positives.shape[1]

    def to(self, device: torch.device) -> ImageTextBatch:
        """The same on a device: see `to_device`."""
        return to_device(self, device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a dataclass with its tensors on a device; to a GPU they go out of pinned memory, while that computes."""
    moved: dict[str, Any] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            pinned = value.pin_memory() if device.type == "cuda" else value
            moved[item.name] = pinned.to(device, non_blocking=True)
    return replace(batch, **moved)
