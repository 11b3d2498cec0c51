"""Rank the rows of indexes, or files whose embeddings are in memory, by queries; group near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, groupby, islice
from os.path import abspath, join
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.formats.exclude import excluded_names
from perception_encoder.formats.listing import Item
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import Embedding, Request
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.media import Media, open_media
from perception_encoder.preprocess.source import escape_name, unescape_name
from perception_encoder.search.lookup import WordQuery
from perception_encoder.search.storage.database import IndexRow, is_unchanged
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.words import RANKED, explain
from perception_encoder.search.terms import Query
from perception_encoder.vectors import best_rows
from perception_encoder.words.reader import TextLine

if TYPE_CHECKING:
    from jaxtyping import Float

    Vector = Float[np.ndarray, " D"]

SIMILAR = 0.97
"""Minimum cosine similarity of near-duplicates."""
_RECENT = 200  # better hits that a hit is compared with: near-duplicates have similar scores
_RANK_OFFSET = 61  # the first rank, in reciprocal rank fusion
_MORE = 4  # times as many rows are read if too few differ
_WITH_WORDS = 1000  # rows whose lines are read together
BLOCK_CELLS = 1 << 24  # similarities in memory at a time


def clock(seconds: float) -> str:
    """Format a time as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Hit:
    """An image, a video, or a moment of a video that matches a query."""

    item: Item
    """The listed file."""
    score: float
    """Cosine similarity, in [-1, 1], to the query or, for near-duplicates, to the group's first item."""
    time: float | None = None
    """For a video: the time most similar to the query (in an index: to the moment), in seconds."""
    row: IndexRow | None = field(default=None, compare=False)
    """The row in the index, if there is one."""
    similar: int = field(default=0, compare=False)
    """Minimum number of worse hits that are nearly the same, which a search with `collapse` left out."""
    why: str = field(default="", compare=False)
    """For a hit by words where they are, such as `words: "Total 41,20 €"`, `title: "…"` or `name`; else empty."""
    lines: tuple[TextLine, ...] = field(default=(), compare=False)
    """For a hit by words: the lines in the image that have some of them, the best one first."""

    @property
    def id(self) -> str:
        """Id in the index, which a later search can start from; without an index, the path or a table's id."""
        return self.row.id if self.row else self.item.id

    @property
    def path(self) -> str:
        """Printable path of the file; TAR/MEMBER for a file in a tar."""
        return self.item.path

    @property
    def file(self) -> Path | None:
        """The file itself; None if it no longer exists, lies in a tar, or is a URL."""
        return self.item.source if isinstance(self.item.source, Path) else None

    @property
    def start(self) -> float | None:
        """For a moment or a part of a video: its start in seconds."""
        return self.item.start

    @property
    def end(self) -> float | None:
        """For a moment or a part of a video: its end in seconds."""
        return self.item.end

    @property
    def clock(self) -> str:
        """`time` as m:ss or h:mm:ss; empty for an image."""
        return "" if self.time is None else clock(self.time)

    @property
    def moment(self) -> str:
        """Start and end as m:ss–m:ss; empty if the hit is not a moment."""
        return "" if self.start is None or self.end is None else f"{clock(self.start)}–{clock(self.end)}"

    @cached_property
    def _place(self) -> tuple[str, float | None]:
        """The absolute path and the start, which are equal for the same file or moment."""
        return abspath(self.path), self.start

    @property
    def thumbnail(self) -> bytes:
        """JPEG from the index; empty unless the search asked for thumbnails."""
        return self.row.thumbnail if self.row else b""

    def to_dict(self) -> dict[str, Any]:
        """Return the hit as JSON values."""
        values = {"id": self.id, "path": self.path, "score": self.score}
        values |= {"time": self.time, "start": self.start, "end": self.end}
        values |= {"similar": self.similar} if self.similar else {}
        values |= {"why": self.why, "lines": [line.to_dict() for line in self.lines]} if self.why else {}
        return values | ({name: getattr(self.row, name) for name in ("kind", "date", "size")} if self.row else {})

    def __repr__(self) -> str:
        return f"Hit({self.path!r}, score={self.score:.3f}, time={self.time})"


@dataclass(frozen=True, kw_only=True)
class SearchResult(Sequence[Hit]):
    """The hits of a search, as a sequence: query after query, best first."""

    model: str
    searched: int
    """Number of searched images, videos and moments."""
    queries: tuple[Query, ...] = field(repr=False)
    by_query: tuple[tuple[Hit, ...], ...]
    """The hits of each query."""
    encoded: int = 0
    """Without an index: number of files encoded or skipped."""
    skipped: tuple[InputError, ...] = ()
    """Without an index: files that could not be read."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of other files in the directories, by suffix."""

    def __len__(self) -> int:
        return sum(map(len, self.by_query))

    def __iter__(self) -> Iterator[Hit]:
        return chain(*self.by_query)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        return list(self)[index]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, with each query under its kind: `text`, `image`, `video` or `query`."""
        queries = [
            {query.kind: query.name, "hits": [hit.to_dict() for hit in hits]}
            for query, hits in zip(self.queries, self.by_query, strict=True)
        ]
        skipped = [error.to_dict() for error in self.skipped]
        return {"model": self.model, "queries": queries, "skipped": skipped, "left_out": dict(self.left_out)}


def best_hits(
    stores: Sequence[IndexStore],
    vector: Vector,
    top: int,
    where: str | None = None,
    min_score: float | None = None,
    thumbnails: bool = False,
    keep: Callable[[IndexStore, IndexRow], bool] = lambda store, row: True,
    collapse: bool = False,
    words: WordQuery | None = None,
) -> list[Hit]:
    """Return the `top` hits over some indexes, each file or moment once, best first: the most similar to a unit vector.

    With `words`, hits that have them all come first if they do exactly, and else are joined with the others by
    reciprocal ranks.

    Args:
        where: A condition in SQL; ConfigError if this or the minimum is invalid.
        min_score: Minimum cosine similarity.
        keep: Whether a row may be a hit.
        collapse: Of hits that are nearly the same, return the best one, with the number of the others among the rows
            that were read.
        words: Words to look up. Their hits have no minimum.
    """
    check_score(min_score)
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(store.one_commit())
        count = 2 * top + 30 if collapse else top
        by_words = dict[tuple[str, float | None], _Found]()
        if words is not None:
            by_words = _find_words(stores, words, vector, count if words.only else RANKED, where, thumbnails, keep)
        if words and words.only:
            best = [found.hit for found in by_words.values()]
            best = _best_of_similar(best) if collapse and best else best
            return _explained(best[:top], by_words, words)
        count = max(count, RANKED) if by_words else count
        while True:
            found, floor = dict[tuple[str, float | None], Hit](), -np.inf  # below it, an index may have better rows
            for store in stores:
                nearest = store.nearest(vector, count, where, thumbnails, partial(keep, store))
                hits = [row_hit(store, row, score) for score, row in nearest if min_score is None or score >= min_score]
                floor = max(floor, hits[-1].score) if len(hits) == count > 0 else floor
                for hit in hits:
                    found.setdefault(hit._place, hit)
            best = sorted((hit for hit in found.values() if hit.score >= floor), key=lambda hit: -hit.score)
            best = _join(best, by_words) if by_words else best
            best = _best_of_similar(best) if collapse and best else best
            if len(best) >= top or floor == -np.inf:
                return _explained(best[:top], by_words, words) if words else best[:top]
            count *= _MORE


class _Found(NamedTuple):
    """A hit by words, its row, the index that has it, and whether all are there exactly."""

    hit: Hit
    row: IndexRow
    store: IndexStore
    exact: bool


def _find_words(
    stores: Sequence[IndexStore],
    words: WordQuery,
    vector: Vector,
    top: int,
    where: str | None,
    thumbnails: bool,
    keep: Callable[[IndexStore, IndexRow], bool],
) -> dict[tuple[str, float | None], _Found]:
    """Return the hits by words, by file and moment, in order."""
    found = []
    for store in stores:
        rows = store.with_words(words, vector, top, where, thumbnails, partial(keep, store))
        found += [_Found(row_hit(store, row, score), row, store, exact) for exact, score, row in rows]
    found.sort(key=lambda one: (one.exact, one.hit.score), reverse=True)
    by_key: dict[tuple[str, float | None], _Found] = {}
    for one in found:
        by_key.setdefault(one.hit._place, one)
    return by_key


def _join(best: Sequence[Hit], by_words: Mapping[tuple[str, float | None], _Found]) -> list[Hit]:
    """Return the hits of both lists: those with all words exactly, then by the sum of the reciprocal ranks."""
    hits = {hit._place: hit for hit in best} | {key: found.hit for key, found in by_words.items()}
    ranks: dict[tuple[str, float | None], float] = dict.fromkeys(hits, 0.0)
    for rank, hit in enumerate(best, _RANK_OFFSET):
        if rank < _RANK_OFFSET + RANKED or hit._place not in by_words:  # the same however many hits are asked for
            ranks[hit._place] += 1 / rank
    for rank, key in enumerate(by_words, _RANK_OFFSET):
        ranks[key] += 1 / rank
    return [
        hits[key]
        for key in sorted(hits, key=lambda key: (key in by_words and by_words[key].exact, ranks[key]), reverse=True)
    ]


def _explained(hits: Sequence[Hit], by_words: Mapping[tuple[str, float | None], _Found], words: WordQuery) -> list[Hit]:
    """Return the hits, those by words with the reason."""
    explained = {hit._place: hit for hit in hits}
    found = {key: by_words[key] for key in explained if key in by_words}
    for store in {id(one.store): one.store for one in found.values()}.values():
        rows = {key: one.row for key, one in found.items() if one.store is store}
        for (key, row), lines in zip(rows.items(), store.lines(list(rows.values())), strict=True):
            why, matching = explain(words.words, row.title, lines)
            explained[key] = replace(explained[key], why=why, lines=matching)
    return list(explained.values())


def may_be_hit(query: Query, is_excluded: Callable[[str], bool], store: IndexStore, row: IndexRow) -> bool:
    """Return whether a row is neither the query itself nor excluded."""
    return not query.contains(_item(store, row), row) and not is_excluded(row.path.removeprefix(store.below))


def _best_of_similar(hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits, given best first, without those that are nearly the same as one of the last better ones."""
    vectors = [hit.row.vector for hit in hits if hit.row]
    similar: dict[int, int] = {}  # number of the others, by the place of the hit that is kept
    recent, places = np.zeros((_RECENT, len(vectors[0])), np.float32), [0] * _RECENT
    for place, vector in enumerate(vectors):
        scores = recent[: len(similar) + 1] @ vector
        if scores.max() >= SIMILAR:
            similar[places[scores.argmax()]] += 1
        else:
            oldest = len(similar) % _RECENT
            recent[oldest], places[oldest], similar[place] = vector, place, 0
    return [replace(hits[place], similar=others) for place, others in similar.items()]


def unique_rows(
    stores: Iterable[IndexStore], where: str | None = None, thumbnails: bool = False
) -> Iterator[tuple[IndexStore, IndexRow]]:
    """Yield the rows of some indexes as `Store.rows` does; a file or moment that several of them have, once."""
    seen: set[tuple[str, float | None]] = set()
    for store in stores:
        root = abspath(store.root)
        for row in store.rows(where, thumbnails):
            key = join(root, unescape_name(row.path)), row.start
            if key not in seen:
                seen.add(key)
                yield store, row


def rows_with_words(stores: Iterable[IndexStore]) -> Iterator[tuple[IndexStore, IndexRow, tuple[str, ...]]]:
    """Yield the rows that `unique_rows` does, with the lines that were read in each image."""
    for _, pairs in groupby(unique_rows(stores), key=lambda pair: id(pair[0])):
        while some := list(islice(pairs, _WITH_WORDS)):
            store = some[0][0]
            for (_, row), lines in zip(some, store.lines([row for _, row in some]), strict=True):
                yield store, row, tuple(line.text for line in lines)


def rank_files(
    encoder: Encoder, files: Collection, query: Query, vector: Vector, top: int, min_score: float | None = None
) -> list[Hit]:
    """Return the `top` files with embeddings that are most similar to a query; a video is one hit, with a time."""
    scores, rows = best_rows(vector, files.vectors, len(files.items))
    found = ((files.items[row], row, float(score)) for row, score in zip(rows, scores, strict=True))
    others = (hit for hit in found if not query.contains(hit[0], None))
    return [
        Hit(item=item, score=score, time=best_moment(encoder, item, vector) if files.is_video[row] else None)
        for item, row, score in islice(others, top)
        if min_score is None or score >= min_score
    ]


def check_score(minimum: float | None) -> None:
    """Raise ConfigError if a minimum score is not a cosine similarity."""
    if minimum is not None and not -1 <= minimum <= 1:
        raise ConfigError(f"the minimum score is {minimum:g}; a cosine similarity must be from -1 to 1")


def query_vector(query: Query, encode: Callable[[Media], Vector]) -> Vector:
    """Return a query's unit vector; `encode` returns those of texts and media. ConfigError if the terms cancel out."""
    terms = query.meant
    vectors = [encode(term.source) if isinstance(term.source, Media) else term.source.vector for term in terms]
    total = np.sum([term.weight * vector for term, vector in zip(terms, vectors, strict=True)], axis=0)
    length = np.linalg.norm(total)
    if length < 1e-6:
        raise ConfigError(f"the terms of {query.name!r} cancel each other; give them other weights")
    return np.asarray(total / length, np.float32)


def query_vectors(encoder: Encoder, queries: Sequence[Query]) -> Float[np.ndarray, "Q D"]:
    """Encode queries as unit vectors, texts with the model's prompt for queries, images and videos as those searched.

    Raises ConfigError, and the InputError of a term that cannot be decoded.
    """
    sources = [term.source for query in queries for term in query.meant if isinstance(term.source, Media)]
    vectors: dict[int, Vector] = {}
    document = encoder.feature()
    for feature, is_text in ((replace(document, role="query"), True), (document, False)):
        requests = [
            Request(id(source), source, source.kind) for source in sources if (source.kind == "text") == is_text
        ]
        for result in chain.from_iterable(encoder.stream(requests, feature)):
            if not isinstance(result, Embedding):
                raise result.error
            vectors[result.key] = result.vector
    rows = [query_vector(query, lambda source: vectors[id(source)]) for query in queries]
    return np.stack(rows) if rows else np.empty((0, encoder.dimension), np.float32)


def row_hit(index: IndexStore, row: IndexRow, score: float = 1.0) -> Hit:
    """Return a row as a hit; without a source if its file does not exist, or lies in a tar."""
    item = _item(index, row)
    exists = isinstance(item.source, Path) and item.source.exists()
    return Hit(item=item if exists else replace(item, source=None), score=score, time=row.time, row=row)


def _item(index: IndexStore, row: IndexRow) -> Item:
    path = index.root / unescape_name(row.path)
    name = escape_name(path)
    return Item(name, name, path, row.start, row.stop)


def best_moment(encoder: Encoder, video: Item, vector: Vector) -> float | None:
    """Return the time in seconds of the frame, among 8 uniform ones, most similar to a vector.

    Returns None if the video cannot be opened any more.
    """
    try:
        frames = open_media(video.media())
    except InputError:
        return None
    if not isinstance(frames, VideoFrames):
        return None
    return frames.times[int((encoder.encode_images(frames.images) @ vector).argmax())]


def group_duplicates(vectors: Float[np.ndarray, "N D"], threshold: float = SIMILAR) -> list[list[int]]:
    """Group rows (unit vectors) linked by a similarity of at least `threshold`: largest group first, rows in order.

    Rows without a near-duplicate are in no group. Exact: every pair is compared.
    """
    group_of = np.arange(len(vectors))  # each row's group, named by its first row
    step = max(1, BLOCK_CELLS // max(1, len(vectors)))
    for start in range(0, len(vectors), step):
        linked = vectors[start : start + step] @ vectors[start:].T >= threshold
        for links in linked[linked.sum(axis=1) > 1]:
            merged_groups = np.unique(group_of[start:][links])
            if len(merged_groups) > 1:
                group_of[np.isin(group_of, merged_groups)] = merged_groups[0]
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_of.tolist()):
        groups.setdefault(group, []).append(row)
    return sorted((rows for rows in groups.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))


def all_but_largest(group: Sequence[Hit], threshold: float = SIMILAR) -> list[Hit]:
    """Return the images of a group that may go if the one with the most pixels stays, with their similarity to it.

    On a tie, the largest file stays, and a file rather than a link to it. Left out are images under `threshold` (a
    chain of similar images leads to dissimilar ones), other names of the one that stays (hard links, and links in both
    directions), files that are missing or have changed since they were indexed, and moments: similar moments do not
    make their videos duplicates.
    """
    images = [
        (hit, hit.row, hit.file)
        for hit in group
        if hit.row and hit.row.kind == "image" and hit.file and is_unchanged(hit.item, hit.row)
    ]
    if not images:
        return []
    _, kept, file = max(images, key=lambda i: (i[1].width * i[1].height, i[1].size, not i[2].is_symlink()))
    similar = [(replace(hit, score=float(row.vector @ kept.vector)), path) for hit, row, path in images]
    return [hit for hit, path in similar if hit.score >= threshold and not path.samefile(file)]


def find_duplicates(
    stores: Sequence[IndexStore],
    where: str | None = None,
    thumbnails: bool = False,
    threshold: float = SIMILAR,
    excluded: Sequence[str] = (),
) -> list[list[Hit]]:
    """Group near-duplicates in some indexes by similarity to the first of each group; raises the errors of `check`.

    Args:
        where: A condition in SQL; ConfigError if this or one of the others is invalid.
        threshold: Minimum cosine similarity.
        excluded: Patterns of files to leave out.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"the minimum score is {threshold:g}; a cosine similarity must be above 0 and at most 1")
    for store in stores[1:]:
        store.check(stores[0].settings, stores[0].settings["source"])
    is_excluded = excluded_names(excluded)
    unique = unique_rows(stores, where, thumbnails)
    rows = [(store, row) for store, row in unique if not is_excluded(row.path.removeprefix(store.below))]
    if not rows:
        return []
    groups = []
    for group in group_duplicates(np.stack([row.vector for _, row in rows]), threshold):
        first = rows[group[0]][1].vector
        hits = [row_hit(store, row, float(row.vector @ first)) for store, row in (rows[number] for number in group)]
        groups.append(sorted(hits, key=lambda hit: -hit.score))
    return groups
