"""Queries to hits: what in a collection is nearest, best first, and where in a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.errors import InputError
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media, open_media
from perception_encoder.preprocess.video import VideoFrames
from perception_encoder.search.exact import best_rows
from perception_encoder.search.query import encode_queries, is_query


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An item that was found."""

    item: Item
    score: float
    """Cosine similarity to the query, in [-1, 1]."""
    time: float | None = None
    """Of a video: where it is most like the query, in seconds."""


def find_hits(encoder: Encoder, queries: Sequence[Media], collection: Collection, top: int) -> list[list[Hit]]:
    """The `top` best hits of each query; a query's own file is no hit. Raises the InputError of a query."""
    vectors = encode_queries(encoder, queries)  # (Q, D)
    ranked = best_rows(vectors, collection.vectors, top + len(queries))
    found = []
    for query, vector, scores, rows in zip(queries, vectors, *ranked, strict=True):
        hits: list[Hit] = []
        for score, row in zip(scores, rows, strict=True):
            item = collection.items[row]
            if len(hits) < top and not is_query(item, query):
                time = best_moment(encoder, item, vector) if collection.is_video[row] else None
                hits.append(Hit(item=item, score=float(score), time=time))
        found.append(hits)
    return found


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
