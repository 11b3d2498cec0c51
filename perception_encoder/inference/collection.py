"""Embeddings of images and videos in memory, for search to rank and classification to label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import DataError, InputError, OutputError
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import Embedding, Failure
from perception_encoder.preprocess.fetch import is_url
from perception_encoder.preprocess.source import unescape_name
from perception_encoder.progress import Track, untracked


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Items with their embeddings, and the items that could not be encoded."""

    items: list[Item]
    vectors: np.ndarray
    """float32 (n, D), unit length, one row per item."""
    is_video: list[bool]
    failures: list[InputError]

    @property
    def total(self) -> int:
        """Number of inputs, including failures."""
        return len(self.items) + len(self.failures)


def read_collection(path: Path) -> tuple[Collection, dict[str, Any]] | None:
    """Read embeddings written by `pe embed` or clip-retrieval, with their settings; None if `path` is something else.

    Raises OutputError if it is damaged.
    """
    from perception_encoder.inference.output_formats import read_embeddings

    read = read_embeddings(path)
    if read is None:
        return None
    rows, vectors, settings = read
    columns = [name for name in ("id", "path", "start", "end", "times") if name in rows.schema.names]
    if "path" not in columns:
        raise OutputError(f"{path} has no column of paths, so it cannot be searched")
    items, is_video = [], []
    for row in rows.select(columns).to_pylist():
        name = row["path"]
        source = name if is_url(name) else Path(unescape_name(name))
        items.append(Item(row.get("id") or name, name, source, row.get("start"), row.get("end")))
        is_video.append(bool(row.get("times")))
    return Collection(items=items, vectors=vectors, is_video=is_video, failures=[]), settings


def list_media_items(
    paths: Iterable[str | Path], left_out: Counter[str] | None = None, excluded: Sequence[str] = ()
) -> list[Item]:
    """List the images and videos in the paths; a table's texts are not media and raise when opened.

    `left_out`, `excluded`: see `list_items`. Raises DataError if there are none.
    """
    paths = list(paths)
    items = [replace(item, text=None) for item in list_items(paths, left_out, excluded)]
    if not items:
        which = " that are not excluded" if excluded else ""
        raise DataError(f"no images or videos{which} in {', '.join(map(str, paths))}")
    return items


def encode_media(encoder: Encoder, items: Sequence[Item], progress: Track = untracked) -> Collection:
    """Encode items in order; a video's embedding is the mean of its frames'."""
    stream = chain.from_iterable(encoder.stream_items(items, encoder.feature()))
    results = list(progress(stream, "encoding files", len(items)))
    good = [result for result in results if isinstance(result, Embedding)]
    vectors = [np.empty((0, encoder.dimension), np.float32), *(result.vector[None] for result in good)]
    return Collection(
        items=[result.key for result in good],
        vectors=np.concatenate(vectors),
        is_video=[bool(result.times) for result in good],
        failures=[result.error for result in results if isinstance(result, Failure)],
    )
