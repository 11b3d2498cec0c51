"""All tokens of one layer for a task's pictures and videos: kept where they fit, else computed whenever asked for.

A video's tokens are those of its frames, one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from PIL import Image

from perception_encoder.datasets.labelled import LabelledPictures
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.features import FRAMES, decode_sources
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked

CHUNK = 32  # items that are encoded at a time
KEPT = 8e9  # bytes


class Tokens(Protocol):
    """Tokens by item; an array (n, N, D), in memory or mapped from disk, is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Tokens (B, N, D) of the items at `rows` (B,)."""
        ...


@dataclass(frozen=True)
class TaskTokens:
    """Tokens of the items that could be decoded."""

    tokens: Tokens
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    failures: tuple[InputError, ...]

    def targets(self, classes: Sequence[str]) -> np.ndarray:
        """Each label's place among `classes`, (n,) int64."""
        place = {label: index for index, label in enumerate(classes)}
        return np.array([place[label] for label in self.labels], dtype=np.int64)


class ComputedTokens:
    """Tokens that are computed whenever they are asked for."""

    def __init__(
        self, encoder: LayerEncoder, layer: int, task: LabelledPictures, rows: Sequence[int], frames: int
    ) -> None:
        self.encoder, self.layer, self.task, self.rows, self.frames = encoder, layer, task, tuple(rows), frames

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        places = [self.rows[row] for row in rows]
        sources, keys = ([these[place] for place in places] for these in (self.task.pictures, self.task.keys))
        shown = list(decode_sources(sources, keys, self.frames, self.task.trim))
        for each in shown:
            if isinstance(each, InputError):  # it could be decoded before
                raise each
        return _encode(self.encoder, self.layer, [each for each in shown if not isinstance(each, InputError)])


def encode_tokens(
    encoder: LayerEncoder,
    layer: int,
    task: LabelledPictures,
    track: Track = untracked,
    frames: int = FRAMES,
    kept: float = KEPT,
) -> TaskTokens:
    """Encode a task's items, to be kept in a temporary file as float32 where all fit in `kept` bytes.

    Raises DataError where none can be decoded or pictures and videos are mixed, ConfigError for a layer that does not
    exist, and ModelError where a token is not finite.
    """
    store: np.memmap | None = None
    decodable: list[int] = []
    failures: list[InputError] = []
    count = len(task.keys)
    decoded = enumerate(
        track(decode_sources(task.pictures, task.keys, frames, task.trim), f"encoding {task.name}", count)
    )
    while chunk := list(islice(decoded, CHUNK)):
        failures += [shown for _, shown in chunk if isinstance(shown, InputError)]
        good = [(row, shown) for row, shown in chunk if not isinstance(shown, InputError)]
        if good and (store is not None or not decodable):
            tokens = _encode(encoder, layer, [shown for _, shown in good])
            if store is None and 4 * count * tokens[0].size <= kept:
                with tempfile.TemporaryFile() as file:  # gone with the last array that is mapped from it
                    store = np.memmap(file, np.float32, "w+", shape=(count, *tokens.shape[1:]))
            if store is not None:
                if tokens.shape[1:] != store.shape[1:]:
                    raise DataError(f"{task.name} mixes pictures and videos; give sets of one kind")
                store[len(decodable) : len(decodable) + len(good)] = tokens
        decodable += [row for row, _ in good]
    if not decodable:
        raise DataError(f"{task.name}: no picture can be decoded; the first: {failures[0]}")
    found = ComputedTokens(encoder, layer, task, decodable, frames) if store is None else store[: len(decodable)]
    keys, labels = (tuple(these[row] for row in decodable) for these in (task.keys, task.labels))
    return TaskTokens(found, keys, labels, tuple(failures))


def _encode(encoder: LayerEncoder, layer: int, shown: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """Tokens (B, N, D) of items, class and register tokens first; all of as many pictures."""
    if len({len(images) for images in shown}) > 1:
        raise DataError("pictures and videos are mixed; give sets of one kind")
    found = encoder.encode_layers([image for images in shown for image in images], [layer])[layer]
    patches = found.patches.reshape(len(found.patches), -1, found.patches.shape[-1])
    tokens = np.concatenate([found.prefix, patches], axis=1)  # (B·F, N, D)
    return tokens.reshape(len(shown), -1, tokens.shape[-1])
