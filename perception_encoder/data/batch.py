"""The batch of image-text training, or one rank's share of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound=Any)
"""A dataclass that holds tensors."""


@dataclass(frozen=True)
class ImageTextBatch:
    """Images, the distinct captions drawn for them, and which captions match which images."""

    images: Tensor
    """uint8 (b, 3, H, W)."""
    tokens: Tensor
    """int64 (u, T), cut to the longest caption."""
    image_positives: Tensor
    """Which captions of the whole batch match these images: bool (b, U), or float for mixed images."""
    text_positives: Tensor
    """Which images of the whole batch these captions match: (u, B), also bool or float."""
    own_images: slice = field(default_factory=lambda: slice(None))
    """The rows of the whole batch that `images` holds."""
    own_tokens: slice = field(default_factory=lambda: slice(None))
    """The captions of the whole batch that `tokens` holds."""
    texts: tuple[str, ...] = ()
    """The captions in `tokens`, as strings."""
    masked: Tensor | None = None
    """Rows of `images` whose copies are masked, int64 (M,)."""
    masks: Tensor | None = None
    """Hidden patches of those copies, bool (M, h·w)."""
    masked_share: float = 0.0
    """These copies as a share of the whole batch's masked copies."""
    left_out: int = 0
    """Number of unreadable samples replaced since the run was started or resumed."""

    def __len__(self) -> int:
        """Number of images in the whole batch."""
        return self.text_positives.shape[1]

    def to(self, device: torch.device) -> ImageTextBatch:
        """Return a copy on a device: see `to_device`."""
        return to_device(self, device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a dataclass with its tensors on a device; copies to a GPU use pinned memory and overlap computation."""
    moved: dict[str, Any] = {}
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            pinned = value.pin_memory() if device.type == "cuda" else value
            moved[item.name] = pinned.to(device, non_blocking=True)
    return replace(batch, **moved)
