"""Parse queries: weighted terms, each a text, an image or video, a row of an index, or an uploaded image.

In a command, in Python and on the page, `2:dog + park - snow` has three terms; a command also takes them as separate
words. A text is searched for by meaning and by words: `"in quotes"` or as `words:TEXT` by words alone, and as
`meaning:TEXT` by meaning alone. The page sends lines: `[WEIGHT:]text:TERMS`, `[WEIGHT:]like:ID` for a row,
`[WEIGHT:]image:ID` for an upload.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from perception_encoder.errors import ConfigError, MediaNotFoundError
from perception_encoder.formats.listing import Item, check_paths
from perception_encoder.preprocess.fetch import is_url
from perception_encoder.preprocess.media import Media, resolve, split_range
from perception_encoder.preprocess.source import MEDIA_SUFFIXES, escape_name
from perception_encoder.search.lookup import MAXIMUM_WORDS, WordQuery, query_words
from perception_encoder.search.storage.database import IndexRow

By = Literal["meaning", "words"]
_BY_NAMES: dict[str, By | None] = {"": None, "meaning": "meaning", "words": "words"}
_MAXIMUM_WEIGHT = 10_000.0
_MAXIMUM_TERMS = 32  # of the page
_MAXIMUM_CHARACTERS = 10_000  # of a text
_WEIGHTED = re.compile(r"(?P<weight>-?\d+(?:\.\d+)?):(?P<source>.+)", re.DOTALL)
_SIGN = re.compile(r"(?<!\s)\s+([+-])\s+")
_QUOTED = re.compile(r'(?<![^\s:])"[^"]*"(?!\S)')
_BY = re.compile(r'(?:(?P<by>words|meaning):)?"(?P<quoted>[^"]*)"|(?P<kind>words|meaning):(?P<text>.*)', re.DOTALL)
_LINE = re.compile(r"(?:(?P<weight>-?\d{1,4}(?:\.\d{1,4})?):)?(?P<kind>text|like|image):(?P<source>.*)", re.ASCII)


@dataclass(frozen=True, kw_only=True, eq=False)
class UploadedImage:
    """The embedding of an image dropped on the page."""

    id: str
    vector: np.ndarray  # (D,)
    kind: str = "image"


@dataclass(frozen=True, kw_only=True)
class Term:
    """A part of a query."""

    source: Media | IndexRow | UploadedImage
    """Text or media to encode, or something that has an embedding."""
    weight: float = 1.0
    """The weight; a negative one searches away from the term."""
    by: By | None = None
    """How alone a text is searched for; by default both ways."""

    @property
    def name(self) -> str:
        """The text, or the name of the image, video or moment."""
        source = self.source
        return source.name if isinstance(source, Media) else source.path if isinstance(source, IndexRow) else source.id

    @property
    def typed(self) -> str:
        """The name as in a query: a text with how alone it is searched for."""
        quoted = self.name if '"' in self.name else f'"{self.name}"'
        return f"{self.by}:{quoted}" if self.by else self.name


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search: the normalized weighted sum of the terms' unit vectors."""

    name: str
    """The query as typed."""
    terms: tuple[Term, ...]

    @property
    def heading(self) -> str:
        """The text in quotes, or an image's file name."""
        if self.kind in ("image", "video"):
            return f"like {self.name.rpartition('/')[2]}"
        return self.name if self.name.startswith('"') else f"“{self.name}”"

    @property
    def kind(self) -> str:
        """ "text", "image" or "video" for a single term, else "query"."""
        return self.terms[0].source.kind if len(self.terms) == 1 else "query"

    @property
    def meant(self) -> list[Term]:
        """The terms whose embeddings are searched for: others than words, if there are any."""
        return [term for term in self.terms if term.by != "words"] or list(self.terms)

    @cached_property
    def words(self) -> WordQuery | None:
        """The words to look up, all of them; None for images, for long texts, and for texts without a word.

        A term for words alone decides which images are found. ConfigError if it has no word, or only leaves out.
        """
        texts = [term for term in self.terms if term.source.kind == "text"]
        words = {id(term): query_words(term.name) for term in texts if term.by != "meaning"}
        asked = [term for term in texts if term.by == "words" and term.weight > 0]
        if empty := [term.name for term in asked if not words[id(term)]]:
            raise ConfigError(f"{empty[0][:60]!r} has no words to look up, or more than {MAXIMUM_WORDS}")
        wanted = asked or [term for term in texts if term.by is None and term.weight > 0]
        if not wanted or not all(words[id(term)] for term in wanted) or (len(texts) < len(self.terms) and not asked):
            if left_out := [term.name for term in texts if term.by == "words"]:
                only = f"{left_out[0][:60]!r} can only leave out images that other words find"
                raise ConfigError(f'{only}; look for some, as in: "invoice" - "paid"')
            return None
        without = (words[id(term)] for term in texts if term.by != "meaning" and term.weight < 0)
        found = dict.fromkeys(word for term in wanted for word in words[id(term)])
        return WordQuery(words=tuple(found), without=tuple(filter(None, without)), only=bool(asked))

    def searched(self, by: str) -> Query:
        """Return the query, with texts that do not say how searched by "meaning", "words" or both (""); ConfigError."""
        if by not in _BY_NAMES:
            raise ConfigError(f"by is {by[:60]!r}; it must be 'meaning' or 'words', or left out")
        way = _BY_NAMES[by]
        terms = (replace(term, by=term.by or way) if term.source.kind == "text" else term for term in self.terms)
        return replace(self, terms=tuple(terms))

    def contains(self, item: Item, row: IndexRow | None) -> bool:
        """Return whether a hit is a row, file or part of a video that is a term of the query."""
        return any(_is_same(term.source, item, row) for term in self.terms)


def _is_same(source: Media | IndexRow | UploadedImage, item: Item, row: IndexRow | None) -> bool:
    if isinstance(source, IndexRow):
        return row is not None and row.id == source.id
    if not isinstance(source, Media) or not isinstance(source.payload, Path) or not isinstance(item.source, Path):
        return False
    if not item.source.exists() or not item.source.samefile(source.payload):
        return False
    starts, ends = (source.start or 0, item.start or 0), (source.end, item.end)
    return max(starts) <= min(math.inf if end is None else end for end in ends)


def text_query(text: str) -> Query:
    """Search for a text; ConfigError if it is empty or too long."""
    return Query(name=text, terms=(Term(source=_text(text)),))


def media_query(path: str) -> Query:
    """Search for images similar to an image, video or moment ("clip.mp4@12s"), by path or URL; raises InputError."""
    media = resolve(path if is_url(path) else Path(path))
    return Query(name=media.name, terms=(Term(source=media),))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command's words, "TERM [+|- TERM]… FILES…", into the query's and the files."""
    end = 1
    while end < len(words) and words[end] in ("+", "-"):
        end += 2
    return list(words[:end]), list(words[end:])


def parse_term(term: str) -> Media:
    """Return a term for a URL or the path of an existing image or video; anything else is a text.

    Raises MediaNotFoundError for a missing file, and what `resolve` raises.
    """
    if _is_media(term):
        return resolve(term if is_url(term) else Path(term))
    path = split_range(Path(term))[0]
    if path.suffix.lower() in MEDIA_SUFFIXES and not path.exists():
        raise MediaNotFoundError(escape_name(term), f"no such file; search for the text with --text {term!r}")
    return _text(term)


def _is_media(term: str) -> bool:
    path = split_range(Path(term))[0]
    return is_url(term) or (path.suffix.lower() in MEDIA_SUFFIXES and path.is_file())


def _split_terms(word: str, media: bool) -> list[str]:
    """Split "2:dog + park - snow" into terms and signs; an existing file's name may hold such signs."""
    match = _WEIGHTED.fullmatch(word)
    names = [word, match["source"]] if match else [word]
    if media and any(map(_is_media, names)):
        return [word]
    whole = _QUOTED.sub(lambda quoted: re.sub(r"\s", "\0", quoted[0]), word.strip())  # so that it is not split
    return [part.replace("\0", " ") for part in _SIGN.split(whole)]


def parse_words(words: Sequence[str], media: bool = True) -> Query:
    """Parse a query: "2:dog - snow", as one word or several, searches for dogs with weight 2 and away from snow.

    With `media`, terms are read by `parse_term`; else all are texts.
    Raises ConfigError if a term is empty, missing or too long, or its weight is too large.
    """
    if len(words) % 2 == 0:
        raise ConfigError(f'after {words[-1]} the query needs another term, as in: "2:dog" - "snow"')
    terms, parts = [], [part for word in words for part in _split_terms(word, media)]
    for sign, word in zip(["+", *parts[1::2]], parts[::2], strict=True):
        match = _WEIGHTED.fullmatch(word)
        weight, source = (float(match["weight"]), match["source"]) if match and not is_url(word) else (1.0, word)
        if abs(weight) > _MAXIMUM_WEIGHT:
            raise ConfigError(f"the weight of {source[:60]!r} is over {_MAXIMUM_WEIGHT:,.0f}, the limit")
        weight = -weight if sign == "-" else weight
        if by := _BY.fullmatch(source):
            meaning = "meaning" in (by["by"], by["kind"])
            text = _text(by["quoted"] or by["text"] or "")
            terms.append(Term(source=text, weight=weight, by="meaning" if meaning else "words"))
        else:
            terms.append(Term(source=parse_term(source) if media else _text(source), weight=weight))
    return Query(name=" ".join(words), terms=tuple(terms))


def parse_lines(lines: Iterable[str], find: Callable[[str, str], IndexRow | UploadedImage]) -> Query:
    """Parse the page's lines (see above); `find` gets "like" or "image" and an id. Raises ConfigError, and `find`'s."""
    terms: list[Term] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"{line[:60]!r} is not a query; it must be text:…, like:ID or image:ID")
        weight, kind, source = float(match["weight"] or 1), match["kind"], match["source"]
        if kind == "text":
            query = parse_words([source], media=False)
            terms += [replace(term, weight=weight * term.weight) for term in query.terms]
        else:
            terms.append(Term(source=find("like" if kind == "like" else "image", source), weight=weight))
        if len(terms) > _MAXIMUM_TERMS:
            raise ConfigError(f"the query has {len(terms)} terms; the limit is {_MAXIMUM_TERMS}")
    return Query(name=", ".join(lines), terms=tuple(terms))


def _text(text: str) -> Media:
    if not text.strip():
        raise ConfigError("the query is empty; say what to look for")
    if len(text) > _MAXIMUM_CHARACTERS:
        raise ConfigError(f"the query has a text of {len(text):,} characters; the limit is {_MAXIMUM_CHARACTERS:,}")
    return Media("text", text, text)


def read_queries(
    words: list[str], texts: list[str], media: list[str], only_files: bool
) -> tuple[list[Query], list[str]]:
    """Return the queries and the files of a command; with `only_files`, or queries in options, all words are files."""
    queries, files = [*map(text_query, texts), *map(media_query, media)], words
    if words and not queries and not only_files:
        query_words, files = split_words(words)
        queries = [parse_words(query_words)]
    try:
        check_paths(files)
    except MediaNotFoundError as error:
        directories = list(filter(os.path.isdir, words))
        others = [word for word in words if word not in directories]
        if len(words) - len(files) != 1 or not directories or any(map(os.path.exists, others)):
            raise
        meant = shlex.join(["pe", "search", " ".join(others), *directories])
        raise MediaNotFoundError(error.source, f"{error.reason}; if it is part of the query: {meant}") from None
    return queries, files
