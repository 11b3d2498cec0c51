"""Embeddings of images and videos in memory, which search ranks and classification labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import DataError, InputError, OutputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import is_url
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.inference.output_formats import read_embeddings
from perception_encoder.inference.pipeline import Embedding, encode_items
from perception_encoder.preprocess.source import unescape_name


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Items with their embeddings, and those that could not be encoded."""

    items: list[Item]
    vectors: np.ndarray
    """float32 (n, D), unit length, one row an item."""
    is_video: list[bool]
    failures: list[InputError]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The failures, ready for JSON."""
        return [{"path": failure.source, "reason": failure.reason} for failure in self.failures]

    @property
    def total(self) -> int:
        """Inputs in all, failures included."""
        return len(self.items) + len(self.failures)


def read_collection(path: Path) -> tuple[Collection, dict[str, Any]] | None:
    """The embeddings that `pe embed` or clip-retrieval wrote, with their settings; None if `path` is something else.

    Raises OutputError if it is damaged.
    """
    read = read_embeddings(path)
    if read is None:
        return None
    rows, vectors, settings = read
    columns = {
        name: rows[name].to_pylist() for name in ("id", "path", "start", "end", "times") if name in rows.schema.names
    }
    if "path" not in columns:
        raise OutputError(f"{path} has no column of paths, so it cannot be searched")
    items, is_video = [], []
    for number, name in enumerate(columns["path"]):
        own = {key: values[number] for key, values in columns.items()}
        source = name if is_url(name) else Path(unescape_name(name))
        items.append(Item(own.get("id") or name, name, source, own.get("start"), own.get("end")))
        is_video.append(bool(own.get("times")))
    return Collection(items=items, vectors=vectors, is_video=is_video, failures=[]), settings


def list_media_items(paths: Iterable[str | Path], left_out: Counter[str] | None = None) -> list[Item]:
    """The images and videos that the paths hold; a table's texts are not media, and raise when they are opened.

    `left_out`: see `list_items`. Raises DataError if there are none.
    """
    paths = list(paths)
    items = [replace(item, text=None) for item in list_items(paths, left_out)]
    if not items:
        raise DataError(f"no images or videos in {', '.join(map(str, paths))}")
    return items


def encode_media(encoder: Encoder, items: Iterable[Item], advance: Callable[[int], object]) -> Collection:
    """Encode items in order, a video as the mean of its frames; `advance` gets the number of items just done."""
    good: list[Item] = []
    vectors = [np.empty((0, encoder.dimension), np.float32)]
    is_video: list[bool] = []
    failures: list[InputError] = []
    for batch in encode_items(encoder, items, encoder.feature()):
        for result in batch:
            if isinstance(result, Embedding):
                good.append(result.key)
                vectors.append(result.vector[None])
                is_video.append(bool(result.times))
            else:
                failures.append(result.error)
        advance(len(batch))
    return Collection(items=good, vectors=np.concatenate(vectors), is_video=is_video, failures=failures)
