"""The batch of image-text training, or one rank's part of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class ImageTextBatch:
    """Pictures, the distinct captions drawn for them, and which captions are true of which pictures."""

    pictures: Tensor
    """uint8 (B, 3, H, W)."""
    tokens: Tensor
    """int64 (U, T), cut to the longest caption."""
    positives: Tensor
    """bool (B, U), of the whole batch."""
    own_pictures: slice = field(default_factory=lambda: slice(None))
    """Which rows of the whole batch `pictures` are."""
    own_tokens: slice = field(default_factory=lambda: slice(None))
    """Which of its captions `tokens` are."""
    texts: tuple[str, ...] = ()
    """The captions that `tokens` are, in words."""
    masked: Tensor | None = None
    """Rows of `pictures` whose copies are masked, int64 (M,)."""
    masks: Tensor | None = None
    """What is hidden of them, bool (M, h·w)."""
    masked_share: float = 0.0
    """Share of the whole batch's masked copies that these are."""
    left_out: int = 0
    """Samples that could not be read, in whose place others are, since the run was started or gone on with."""

    def __len__(self) -> int:
        """Pictures of the whole batch."""
        return len(self.positives)
