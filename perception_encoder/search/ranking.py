"""Rank images and moments by queries, over indexes or files whose embeddings are in memory; group duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media, open_media
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.source import escape_name, unescape_name
from perception_encoder.search.storage.calibration import read_calibration
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.storage.store import Store
from perception_encoder.search.terms import Query
from perception_encoder.vectors import best_rows

Vector = Float[np.ndarray, " D"]
SIMILAR = 0.97
"""Cosine similarity from which two images are near-duplicates."""
_BLOCK = 1 << 24  # similarities in memory at a time


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An item that matches a query."""

    item: Item
    score: float
    """Cosine similarity to the query, in [-1, 1]."""
    time: float | None = None
    """Of a video: the second most similar to the query (in an index: to its moment)."""
    row: IndexRow | None = None
    """The row of an index that it comes from."""
    probability: float | None = None
    """The probability that it matches the query; None if unknown (see `calibration`)."""


class Gallery(Protocol):
    """Embeddings to search: an index, or files in memory."""

    def __len__(self) -> int: ...

    def nearest(self, vector: Vector, top: int, where: str | None, thumbnails: bool) -> list[Hit]:
        """Return the `top` hits most similar to a unit vector, best first; ConfigError for an invalid condition."""
        ...

    def completer(self, query: Query, vector: Vector) -> Callable[[Hit], Hit]:
        """Return a function that adds what is only computed for the best hits, such as probabilities."""
        ...


def search(
    galleries: Sequence[Gallery],
    queries: Sequence[Query],
    vectors: Float[np.ndarray, "Q D"],
    top: int,
    where: str | None = None,
    thumbnails: bool = False,
    own: bool = False,
    offset: int = 0,
) -> list[list[Hit]]:
    """Return the `top` best hits of each query over all galleries, without the first `offset`.

    `vectors`: the queries' unit vectors, by the galleries' model. `where`: a condition in SQL on the columns of an
    index; ConfigError if it is invalid. `own`: include the files and rows that the query itself consists of.
    """
    hits = []
    for query, vector in zip(queries, vectors, strict=True):
        ranked = []
        for gallery in galleries:
            complete = gallery.completer(query, vector)
            ranked += [(hit, complete) for hit in _best(gallery, query, vector, top, where, thumbnails, own)]
        ranked.sort(key=lambda pair: -pair[0].score)
        hits.append([complete(hit) for hit, complete in ranked[offset:top]])
    return hits


def _best(
    gallery: Gallery, query: Query, vector: Vector, top: int, where: str | None, thumbnails: bool, own: bool
) -> list[Hit]:
    count = top if own else top + len(query.terms)
    while True:  # a video that is the query may have many moments
        hits = gallery.nearest(vector, count, where, thumbnails)
        others = hits if own else [hit for hit in hits if not query.contains(hit.item, hit.row)]
        if len(others) >= top or len(hits) < count:
            return others[:top]
        count *= 2


def query_vector(query: Query, encode: Callable[[Media], Vector]) -> Vector:
    """Return a query's unit vector; `encode` returns those of texts and media. ConfigError if the terms cancel out."""
    vectors = [encode(term.source) if isinstance(term.source, Media) else term.source.vector for term in query.terms]
    total = np.sum([term.weight * vector for term, vector in zip(query.terms, vectors, strict=True)], axis=0)
    length = np.linalg.norm(total)
    if length < 1e-6:
        raise ConfigError(f"the terms of {query.name!r} cancel each other; give them other weights")
    return np.asarray(total / length, np.float32)


def query_vectors(encoder: Encoder, queries: Sequence[Query]) -> Float[np.ndarray, "Q D"]:
    """Encode queries into unit vectors; raises the InputError of a term that cannot be decoded, and ConfigError."""
    sources = [term.source for query in queries for term in query.terms if isinstance(term.source, Media)]
    vectors: dict[int, Vector] = {}
    for batch in encode_requests(
        encoder, [Request(id(source), source, source.kind) for source in sources], encoder.feature()
    ):
        for result in batch:
            if not isinstance(result, Embedding):
                raise result.error
            vectors[result.key] = result.vector
    rows = [query_vector(query, lambda source: vectors[id(source)]) for query in queries]
    return np.stack(rows) if rows else np.empty((0, encoder.dimension), np.float32)


class IndexGallery:
    """An index; its hits are images and moments of videos."""

    def __init__(self, index: Store) -> None:
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


def hit_of(index: Store, row: IndexRow, score: float) -> Hit:
    """Return a row of an index as a hit."""
    return Hit(item=item_of(index, row), score=score, time=row.time, row=row)


def item_of(index: Store, row: IndexRow) -> Item:
    """Return the file of a row; without a source if it does not exist, as in a tar."""
    return _checked(_item(index, row))


def _item(index: Store, row: IndexRow) -> Item:
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


def group_duplicates(vectors: Float[np.ndarray, "N D"], similar: float = SIMILAR) -> list[list[int]]:
    """Group rows (unit vectors) linked by a similarity of at least `similar`: largest group first, rows in order.

    Rows without a near-duplicate are in no group. Exact: every pair is compared.
    """
    group_of = np.arange(len(vectors))  # each row's group, by the least row in it
    step = max(1, _BLOCK // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        linked = vectors[start : start + step] @ vectors[start:].T >= similar
        for links in linked[linked.sum(axis=1) > 1]:
            merged_groups = np.unique(group_of[start:][links])
            if len(merged_groups) > 1:
                group_of[np.isin(group_of, merged_groups)] = merged_groups[0]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(row)
    return sorted((rows for rows in groups.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))


def all_but_largest(group: Sequence[Hit]) -> list[Hit]:
    """Return the images of a group without the one that has the most pixels, of equal ones the largest file.

    Moments of videos are left out: that they look alike does not make their videos duplicates.
    """
    images = [hit for hit in group if hit.row is not None and hit.row.kind == "image"]
    kept = max(images, key=lambda hit: (hit.row.width * hit.row.height, hit.row.size) if hit.row else (), default=None)
    return [hit for hit in images if hit is not kept]


def find_duplicates(
    indexes: Sequence[Store], where: str | None = None, thumbnails: bool = False, similar: float = SIMILAR
) -> list[list[Hit]]:
    """Group near-duplicates in some indexes, by similarity to the first of each group; SearchIndexError as `check`.

    `where`: a condition in SQL. `similar`: see `group_duplicates`. ConfigError if either is invalid.
    """
    if not 0 < similar <= 1:
        raise ConfigError(f"the threshold is {similar:g}; a cosine similarity must be above 0 and at most 1")
    for other in indexes[1:]:
        other.check(indexes[0].settings)
    rows = [(index, row) for index in indexes for row in index.rows(where, thumbnails)]
    if not rows:
        return []
    groups = []
    for group in group_duplicates(np.stack([row.vector for _, row in rows]), similar):
        first = rows[group[0]][1].vector
        hits = [hit_of(index, row, float(row.vector @ first)) for index, row in (rows[number] for number in group)]
        groups.append(sorted(hits, key=lambda hit: -hit.score))
    return groups
