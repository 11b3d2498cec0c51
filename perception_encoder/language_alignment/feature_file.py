"""Cache the features of a frozen tower on disk: each image or video is encoded once, when it is first needed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.files import writing
from perception_encoder.preprocess.source import escape_name
from perception_encoder.records import from_fields

logger = logging.getLogger(__name__)


class FeatureFile:
    """A growing file of float16 features, N · P · width per entry, and an index beside it.

    A key must hold everything that its features depend on, except the tower's weights and the image size, which are in
    the file's name. A line of the index is written after its features: a killed run loses at most its last entry.
    """

    def __init__(self, path: Path, tokens: int, width: int) -> None:
        """`path`: without a suffix; `tokens`: P, per image, tile or frame."""
        self.tokens, self.width = tokens, width
        self._data_path, self._index_path = path.with_suffix(".f16"), path.with_suffix(".jsonl")
        self._rows: dict[str, tuple[int, int]] = {}
        self._end = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data_path.open("ab").close()
            self._read_index()

    def __len__(self) -> int:
        return len(self._rows)

    def _read_index(self) -> None:
        size = self._data_path.stat().st_size // (2 * self.tokens * self.width)
        lines = self._index_path.read_bytes().splitlines() if self._index_path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                key, first, count = from_fields(tuple[str, int, int], json.loads(line))
            except (ValueError, RecursionError):
                name = escape_name(self._index_path)
                logger.warning("%s:%d is damaged; its features are encoded again", name, number)
                continue
            if min(first, count) >= 0 and first + count <= size:
                self._rows[key] = (first, count)
                self._end = max(self._end, first + count)
        if lines and not self._index_path.read_bytes().endswith(b"\n"):
            with self._index_path.open("a", encoding="utf-8") as file:
                file.write("\n")

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
        with writing(self._data_path):
            with self._data_path.open("r+b") as file:
                file.seek(2 * self._end * self.tokens * self.width)
                file.write(values.tobytes())
            with self._index_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self._end, len(values)]) + "\n")
        self._rows[key] = (self._end, len(values))
        self._end += len(values)
