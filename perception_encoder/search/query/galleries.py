"""What can be searched: an index, or files whose embeddings are in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception_encoder.errors import InputError
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.source import escape_name, unescape_name
from perception_encoder.search.index.calibration import read_calibration
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import IndexRow
from perception_encoder.search.query.search import Hit, Vector
from perception_encoder.search.query.terms import Query
from perception_encoder.vectors import best_rows


class IndexGallery:
    """An index; its hits are images and moments of videos."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def nearest(self, vector: Vector, top: int, where: str | None, thumbnails: bool) -> list[Hit]:
        """See `Gallery`; whether the files exist is not checked yet."""
        rows = self.index.nearest(vector, top, where, thumbnails)
        return [Hit(item=_item(self.index, row), score=score, time=row.time, row=row) for score, row in rows]

    def completer(self, query: Query, vector: Vector) -> Callable[[Hit], Hit]:
        """Check the file, and add the probability."""
        calibration = read_calibration(self.index) if query.calibrated else None

        def complete(hit: Hit) -> Hit:
            probability = None if calibration is None else float(calibration.probabilities(np.array(hit.score)))
            return replace(hit, item=_checked(hit.item), probability=probability)

        return complete


class FileGallery:
    """Files and their embeddings; a video is one hit."""

    def __init__(self, encoder: Encoder, collection: Collection) -> None:
        self.encoder, self.collection = encoder, collection
        self._videos = {id(collection.items[row]) for row in np.flatnonzero(collection.is_video)}

    def __len__(self) -> int:
        return len(self.collection.items)

    def nearest(self, vector: Vector, top: int, where: str | None, thumbnails: bool) -> list[Hit]:
        """See `Gallery`; there are no columns for a condition."""
        scores, rows = best_rows(vector, self.collection.vectors, top)
        items = [self.collection.items[row] for row in rows]
        return [Hit(item=item, score=float(score)) for item, score in zip(items, scores, strict=True)]

    def completer(self, query: Query, vector: Vector) -> Callable[[Hit], Hit]:
        """Add the time in a video."""

        def complete(hit: Hit) -> Hit:
            is_video = id(hit.item) in self._videos
            return replace(hit, time=best_moment(self.encoder, hit.item, vector)) if is_video else hit

        return complete


def hit_of(index: Index, row: IndexRow, score: float) -> Hit:
    """Return a row of an index as a hit."""
    return Hit(item=item_of(index, row), score=score, time=row.time, row=row)


def item_of(index: Index, row: IndexRow) -> Item:
    """Return the file of a row; without a source if it does not exist, as in a tar."""
    return _checked(_item(index, row))


def _item(index: Index, row: IndexRow) -> Item:
    path = index.root / unescape_name(row.path)
    name = escape_name(path)
    return Item(name, name, path, row.start, row.stop)


def _checked(item: Item) -> Item:
    exists = isinstance(item.source, Path) and item.source.exists()
    return item if exists else replace(item, source=None)


def best_moment(encoder: Encoder, video: Item, vector: Vector) -> float | None:
    """Return the time of the video's frame, of 8 uniform ones, most similar to a vector, in seconds.

    Returns None if the video cannot be opened any more.
    """
    try:
        frames = open_media(video.media())
    except InputError:
        return None
    if not isinstance(frames, VideoFrames):
        return None
    return frames.times[int((encoder.encode_images(frames.images) @ vector).argmax())]
