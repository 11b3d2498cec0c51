"""One search over all galleries: encode queries, rank, leave out the query's own files, complete the best hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests
from perception_encoder.search.index.rows import IndexRow
from perception_encoder.search.query.terms import Query

Vector = Float[np.ndarray, " D"]


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
