"""Make batches of conversations: token ids, labels, and the pixels or cached features of their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception_encoder.data.batch import to_device
from perception_encoder.language_alignment.text.prompt import IGNORED, Prompt


@dataclass(frozen=True)
class LanguageBatch:
    """One rank's part of a batch."""

    ids: Tensor
    """(B, T); rows are padded on the right."""
    labels: Tensor
    """(B, T); `IGNORED` for tokens without a loss."""
    is_image: Tensor
    """(B, T)."""
    parts: Tensor | None
    """(B, T); which tokens see each other, as `Prompt.parts` says; None if all see what is before them."""
    images: Tensor
    """Pixels (N, 3, S, S), or features (N, P, width), of all rows' images, tiles and frames in order."""
    step: int
    answer_tokens: int
    """Labelled tokens of the whole batch, over all ranks: the loss is their mean."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> LanguageBatch:
        """Return the batch on a device."""
        return to_device(self, device)


@dataclass(frozen=True)
class Example:
    """A conversation that is ready for a batch."""

    prompt: Prompt
    images: Tensor
    """Pixels or features of its images, tiles and frames."""

    @property
    def answer_tokens(self) -> int:
        """Tokens with a loss: the first of a row never has one."""
        return sum(label != IGNORED for label in self.prompt.labels[1:])


def collate(examples: Sequence[Example], step: int, total: Callable[[int], int] = int) -> LanguageBatch:
    """Put conversations into one batch; `total` adds up the ranks' numbers of answer tokens."""
    longest = max(len(example.prompt.ids) for example in examples)

    def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

    prompts = [example.prompt for example in examples]
    parts = None
    if any(prompt.parts for prompt in prompts):
        parts = pad([prompt.parts or [0] * len(prompt.ids) for prompt in prompts], 0)
    return LanguageBatch(
        pad([prompt.ids for prompt in prompts], 0),
        pad([prompt.labels for prompt in prompts], IGNORED),
        pad([prompt.is_image for prompt in prompts], 0).bool(),
        parts,
        torch.cat([example.images for example in examples]),
        step,
        total(sum(example.answer_tokens for example in examples)),
    )
