"""What is looked for: texts, pictures and clips, one or several with weights, and their vectors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import is_url
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media, resolve, split_range
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests
from perception_encoder.preprocess.media_types import MEDIA_SUFFIXES
from perception_encoder.search.index.rows import Row

_MOST_WEIGHT = 10_000.0
_WEIGHTED = re.compile(r"(?P<weight>-?\d+(?:\.\d+)?):(?P<what>.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A part of a query."""

    what: Media | Row
    """To be encoded, or found in an index."""
    weight: float = 1.0
    """How much it counts; a negative one looks away from what it shows."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: the weighted sum of its terms' unit vectors, made unit again."""

    name: str
    """As it was typed."""
    terms: tuple[Term, ...]

    @property
    def kind(self) -> str:
        """What it is, where it is one thing: "text", "image" or "video"; else "query"."""
        return self.terms[0].what.kind if len(self.terms) == 1 else "query"

    def names(self, item: Item) -> bool:
        """Whether an item of a collection is the very file, or part of a video, that the query names."""
        source = item.source
        if not isinstance(source, Path) or not source.exists():
            return False
        return any(isinstance(term.what, Media) and _shows(term.what, item, source) for term in self.terms)


def _shows(media: Media, item: Item, source: Path) -> bool:
    """Whether a term is an item's file or, where it is a part of a video, overlaps the item's."""
    if not isinstance(media.payload, Path) or not source.samefile(media.payload):
        return False
    starts, ends = (media.start or 0, item.start or 0), (media.end, item.end)
    return max(starts) <= min(math.inf if end is None else end for end in ends)


def text_query(text: str) -> Query:
    """Look for what a text says; ConfigError where it says nothing."""
    return Query(name=text, terms=(Term(what=_text(text)),))


def media_query(source: str) -> Query:
    """Look for what is like a picture, a clip or a moment of one ("clip.mp4@12s"), by its path or URL.

    Raises InputError where it is none.
    """
    media = resolve(source if is_url(source) else Path(source))
    return Query(name=media.name, terms=(Term(what=media),))


def row_query(row: Row) -> Query:
    """Look for what is like a row of an index."""
    return Query(name=row.path, terms=(Term(what=row),))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the words of a command, "TERM [+|- TERM]… FILES…", into the query's and the files."""
    end = 1
    while end < len(words) and words[end] in ("+", "-"):
        end += 2
    return list(words[:end]), list(words[end:])


def parse_line(line: str) -> Query:
    """A query in one line, such as "2:dog - snow", all of whose terms are texts; ConfigError as `parse_query`."""
    return parse_query(re.split(r"\s+([+-])\s+", line.strip()), media=False)


def parse_query(words: Sequence[str], media: bool = True) -> Query:
    """A query as it is typed: "2:dog", "-", "snow" looks for dogs, counted twice, and away from snow.

    With `media`, a term is a picture or clip where it is a URL or an existing file of such a name; else all are texts.
    Raises ConfigError where a term is empty or missing.
    """
    if len(words) % 2 == 0:
        raise ConfigError(f'after {words[-1]} the query needs another term, as in: "2:dog" - "snow"')
    terms = []
    for sign, word in zip(["+", *words[1::2]], words[::2], strict=True):
        match = _WEIGHTED.fullmatch(word)
        weight, what = (float(match["weight"]), match["what"]) if match and not is_url(word) else (1.0, word)
        if abs(weight) > _MOST_WEIGHT:
            raise ConfigError(f"the weight of {what[:60]!r} is over {_MOST_WEIGHT:,.0f}, the limit")
        path = split_range(Path(what))[0]
        is_media = media and (is_url(what) or (path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()))
        found = resolve(what if is_url(what) else Path(what)) if is_media else _text(what)
        terms.append(Term(what=found, weight=-weight if sign == "-" else weight))
    return Query(name=" ".join(words), terms=tuple(terms))


def _text(text: str) -> Media:
    if not text.strip():
        raise ConfigError("the query is empty; say what to look for")
    return Media("text", text, text)


def encode_queries(encoder: Encoder, queries: Sequence[Query]) -> Float[np.ndarray, "Q D"]:
    """Unit vectors, in order.

    Raises the InputError of a term that cannot be opened, and ConfigError where terms cancel each other.
    """
    vectors = np.zeros((len(queries), encoder.dimension), np.float32)
    requests: list[Request[tuple[int, float]]] = []
    for index, query in enumerate(queries):
        for term in query.terms:
            if isinstance(term.what, Row):
                vectors[index] += term.weight * term.what.vector
            else:
                requests.append(Request((index, term.weight), term.what, term.what.kind))
    for batch in encode_requests(encoder, requests, encoder.feature()):
        for result in batch:
            if not isinstance(result, Embedding):
                raise result.error
            index, weight = result.key
            vectors[index] += weight * result.vector
    return unit_vectors(vectors, [query.name for query in queries])


def unit_vectors(vectors: Float[np.ndarray, "Q D"], names: Sequence[str]) -> Float[np.ndarray, "Q D"]:
    """Sums of terms made unit; ConfigError, with the query's name, where terms have cancelled each other."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, length in zip(names, lengths[:, 0], strict=True):
        if length < 1e-6:
            raise ConfigError(f"the terms of {name!r} cancel each other; give them other weights")
    return vectors / lengths
