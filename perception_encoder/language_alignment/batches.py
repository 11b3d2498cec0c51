"""Collate conversations into batches, and cache the features of a frozen tower on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.data.pairs import to_device
from perception_encoder.errors import DataError
from perception_encoder.files import open_regular, writing
from perception_encoder.formats.tables import append_json_lines, read_appended_lines
from perception_encoder.language_alignment.text.prompt import IGNORED, Prompt
from perception_encoder.records import from_fields


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


INDEX = ("key", "first", "count")
"""Fields of a line of the index."""


class FeatureFile:
    """A growing file of float16 features, N · P · width per entry, and an index beside it.

    A key must hold everything that its features depend on, except the tower's weights and the image size, which are in
    the file's name. A line of the index is written after its features: a killed run loses at most its last entry.
    """

    def __init__(self, path: Path, tokens: int, width: int) -> None:
        """`path`: without suffix; `tokens`: P, per image, tile or frame."""
        self.tokens, self.width = tokens, width
        self._data_path, self._index_path = path.with_suffix(".f16"), path.with_suffix(".jsonl")
        self._rows: dict[str, tuple[int, int]] = {}
        self._end = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(open_regular(self._data_path))
            self._read_index()

    def __len__(self) -> int:
        return len(self._rows)

    def _read_index(self) -> None:
        size = self._data_path.stat().st_size // (2 * self.tokens * self.width)
        for where, row in read_appended_lines(self._index_path):
            try:
                key, first, count = from_fields(tuple[str, int, int], [row.get(name) for name in INDEX])
            except ValueError as error:
                raise DataError(f"{where} is damaged ({error}); delete {self._index_path}") from None
            if min(first, count) >= 0 and first + count <= size:
                self._rows[key] = (first, count)
                self._end = max(self._end, first + count)

    def get(self, key: str) -> Float[Tensor, "N P width"] | None:
        """Return the features of a key, or None if there are none yet."""
        if key not in self._rows:
            return None
        first, count = self._rows[key]
        shape = (count, self.tokens, self.width)
        if count == 0:
            return torch.zeros(shape, dtype=torch.float16)
        offset = 2 * first * self.tokens * self.width
        return torch.from_numpy(np.array(np.memmap(self._data_path, np.float16, "r", offset, shape)))

    def put(self, key: str, features: Float[Tensor, "N P width"]) -> None:
        """Add the features of a key; OutputError if the disk is full."""
        values = features.detach().to("cpu", torch.float16).numpy()
        with writing(self._data_path), open(open_regular(self._data_path), "r+b") as file:
            file.seek(2 * self._end * self.tokens * self.width)
            file.write(values.tobytes())
        append_json_lines(self._index_path, [dict(zip(INDEX, (key, self._end, len(values)), strict=True))])
        self._rows[key] = (self._end, len(values))
        self._end += len(values)
