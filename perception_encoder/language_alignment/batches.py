"""Collate conversations into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception_encoder.data.pairs import to_device
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
    """(B, T); which tokens attend to each other (`Prompt.parts`); None if all attend to all earlier ones."""
    images: Tensor
    """Pixels (N, 3, S, S), or features (N, P, width), of the images, tiles and frames of all rows in order."""
    step: int
    answer_tokens: int
    """Number of labelled tokens in the batch over all ranks; the loss is their mean."""
    rows: int
    """Number of conversations in the batch over all ranks."""

    def __len__(self) -> int:
        return self.rows

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
        """Number of tokens with a loss; the first token of a row never has one."""
        return sum(label != IGNORED for label in self.prompt.labels[1:])


def collate(
    examples: Sequence[Example], step: int, total: Callable[[int], int] = int, rows: int | None = None
) -> LanguageBatch:
    """Collate conversations into a batch; `total` sums the number of answer tokens over the ranks.

    `rows`: number of conversations over all ranks, by default these.
    """
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
        len(examples) if rows is None else rows,
    )
