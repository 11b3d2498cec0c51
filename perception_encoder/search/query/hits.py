"""Queries to hits: what in a collection is nearest, best first, and where in a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import InputError
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.source import escape_name, unescape_name
from perception_encoder.search.index.exact import best_rows
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import Row
from perception_encoder.search.query.calibration import find_calibration
from perception_encoder.search.query.query import Query


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An item that was found."""

    item: Item
    score: float
    """Cosine similarity to the query, in [-1, 1]."""
    time: float | None = None
    """Of a video: where it is most like the query (in an index: most like its moment), in seconds."""
    row: Row | None = None
    """What the index says of it, where it was found in one."""
    probability: float | None = None
    """The chance that it shows what was asked; None where that cannot be told (see `calibration`)."""


def find_hits(
    encoder: Encoder,
    queries: Sequence[Query],
    vectors: Float[np.ndarray, "Q D"],
    collection: Collection,
    top: int,
) -> list[list[Hit]]:
    """The `top` best hits of each query, whose `vectors` `encode_queries` made; a query's own file is no hit."""
    ranked = best_rows(vectors, collection.vectors, top + sum(len(query.terms) for query in queries))
    found = []
    for query, vector, scores, rows in zip(queries, vectors, *ranked, strict=True):
        hits: list[Hit] = []
        for score, row in zip(scores, rows, strict=True):
            item = collection.items[row]
            if len(hits) < top and not query.names(item):
                time = best_moment(encoder, item, vector) if collection.is_video[row] else None
                hits.append(Hit(item=item, score=float(score), time=time))
        found.append(hits)
    return found


def find_in_index(
    index: Index,
    queries: Sequence[Query],
    vectors: Float[np.ndarray, "Q D"],
    top: int,
    where: str | None = None,
    thumbnails: bool = False,
) -> list[list[Hit]]:
    """The `top` best pictures and moments of each query, whose `vectors` `encode_queries` made by the index's model.

    What a query names is no hit. `where`: a condition in SQL; ConfigError where it is none.
    """
    found = []
    for query, vector in zip(queries, vectors, strict=True):
        own = [term.what.id for term in query.terms if isinstance(term.what, Row)]
        hits: list[Hit] = []
        asked = top + len(query.terms)
        while True:  # a clip that is the query may have many moments
            rows = index.nearest(vector, asked, where, thumbnails)
            hits = [Hit(item=item_of(index, row), score=score, time=row.time, row=row) for score, row in rows]
            hits = [hit for hit in hits if hit.row and hit.row.id not in own and not query.names(hit.item)]
            if len(hits) >= top or len(rows) < asked:
                break
            asked *= 2
        found.append(_with_probabilities(hits[:top], index, query))
    return found


def _with_probabilities(hits: list[Hit], index: Index, query: Query) -> list[Hit]:
    calibration = find_calibration(index, query)
    if calibration is None:
        return hits
    chances = calibration.probabilities(np.array([hit.score for hit in hits]))
    return [replace(hit, probability=float(chance)) for hit, chance in zip(hits, chances, strict=True)]


def item_of(index: Index, row: Row) -> Item:
    """A row's file, where it lies; without a source where it lies in a tar."""
    path = index.root / unescape_name(row.path)
    name = escape_name(path)
    return Item(name, name, path if path.exists() else None, row.start, row.stop)


def best_moment(encoder: Encoder, video: Item, vector: np.ndarray) -> float | None:
    """The time of the video's frame, of 8 uniform ones, that is nearest to a vector (D,), in seconds.

    None where it cannot be opened any more.
    """
    try:
        opened = open_media(video.media())
    except InputError:
        return None
    if not isinstance(opened, VideoFrames):
        return None
    return opened.times[int((encoder.encode_images(opened.images) @ vector).argmax())]
