"""Collate conversations into batches: token ids, labels, and the pixels or cached features of their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception_encoder.data.batch import to_device
from perception_encoder.language_alignment.text.prompt import IGNORED, Prompt


@dataclass(frozen=True)
class LanguageBatch:
    """A rank's share of a batch."""

    ids: Tensor
    """(B, T); rows are padded on the right."""
    labels: Tensor
    """(B, T); `IGNORED` for tokens without a loss."""
    is_image: Tensor
    """(B, T)."""
    parts: Tensor | None
    """(B, T); which tokens see each other, see `Prompt.parts`; None if all tokens see all earlier ones."""
    images: Tensor
    """Pixels (N, 3, S, S), or features (N, P, width), of all rows' images, tiles and frames in order."""
    step: int
    answer_tokens: int
    """Number of labelled tokens of the batch over all ranks: the loss is their mean."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> LanguageBatch:
        """Return the batch on a device."""
        return to_device(self, device)


@dataclass(frozen=True)
class Example:
    """A conversation, ready for a batch."""

    prompt: Prompt
    images: Tensor
    """Pixels or features of its images, tiles and frames."""

    @property
    def answer_tokens(self) -> int:
        """Return the number of tokens with a loss; the first of a row never has one."""
        return sum(label != IGNORED for label in self.prompt.labels[1:])


def collate(examples: Sequence[Example], step: int, total: Callable[[int], int] = int) -> LanguageBatch:
    """Collate conversations into a batch; `total` sums the numbers of answer tokens over the ranks."""
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
