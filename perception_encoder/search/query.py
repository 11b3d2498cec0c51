"""What is looked for: texts, pictures and clips, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import is_url
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media, resolve
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests


def text_query(text: str) -> Media:
    """Look for what a text says; ConfigError where it says nothing."""
    if not text.strip():
        raise ConfigError("the query is empty; say what to look for")
    return Media("text", text, text)


def picture_query(source: str) -> Media:
    """Look for what is like a picture or clip, given by its path or URL; InputError where it is none."""
    return resolve(source if is_url(source) else Path(source))


def encode_queries(encoder: Encoder, queries: Sequence[Media]) -> np.ndarray:
    """Unit vectors (Q, D), in order; raises the InputError of a query that cannot be opened."""
    requests = [Request(index, partial(_itself, query)) for index, query in enumerate(queries)]
    vectors = np.empty((len(queries), encoder.dimension), np.float32)
    for batch in encode_requests(encoder, requests, encoder.feature()):
        for result in batch:
            if not isinstance(result, Embedding):
                raise result.error
            vectors[result.key] = result.vector
    return vectors


def _itself(query: Media) -> Media:
    return query


def is_query(item: Item, query: Media) -> bool:
    """Whether an item of a collection is the very file that is the query."""
    source, payload = item.source, query.payload
    return isinstance(source, Path) and isinstance(payload, Path) and source.exists() and source.samefile(payload)
