"""Open, update, search and export the index of a directory; search files without an index."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError
from perception_encoder.formats.exclude import excluded_names, parse_patterns
from perception_encoder.formats.listing import check_paths
from perception_encoder.inference.collection import encode_media, list_media_items, read_collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import ModelLike, choose_model, load_chosen
from perception_encoder.inference.model_spec import ModelKeywords, ModelSpec
from perception_encoder.inference.pipeline import Embedding
from perception_encoder.models.checkpoints.find import TowerChoice
from perception_encoder.models.defaults import default_model
from perception_encoder.models.registry import canonical_name
from perception_encoder.preprocess.media import Media, resolve
from perception_encoder.preprocess.source import as_paths, escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.search.ranking import (
    SIMILAR,
    Hit,
    SearchResult,
    all_but_largest,
    best_hits,
    check_score,
    find_duplicates,
    may_be_hit,
    query_vectors,
    rank_files,
    row_hit,
    rows_with_words,
)
from perception_encoder.search.storage.database import IndexRow, different_settings
from perception_encoder.search.storage.location import indexed_directory, limit_store, nearest_index
from perception_encoder.search.storage.seal import index_command
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.trust import adopt, load_encoder
from perception_encoder.search.terms import Query, Term, parse_term, parse_words

if TYPE_CHECKING:
    from perception_encoder.search.storage.update import UpdateReport
    from perception_encoder.search.vector_stores import VectorStore

logger = logging.getLogger(__name__)

QueryTerm = str | Path | Image.Image | np.ndarray | Hit
QueryLike = QueryTerm | Query | Mapping[str | Path, float]
"""A query: one term, or several with their weights. See `Index.search`."""


def open_index(
    path: str | Path | Sequence[str | Path] | None = None,
    model: ModelLike = None,
    *,
    index: str | Path | None = None,
    words: bool | None = None,
    **keywords: Unpack[ModelKeywords],
) -> Index:
    """Open the index of a directory, which `Index.update` creates if it does not exist yet.

    Args:
        path: A directory, or several to search together; by default the current one or, with `index`, the indexed one.
            A subdirectory is searched through the index of a directory around it.
        model: An encoder, or its name; by default the index's own and, for a new index, the default model (`pe
            models`).
        index: The directory that stores the index; by default the directory itself.
        words: Whether updates also read the words in images, with the extra `words`; by default as before, at first
            not.
        **keywords: Fields of a `ModelSpec`. An index answers queries in any precision, has its own dimensions by
            default, and does not store `trust_remote_code`.

    Examples:
        >>> index = pe.open_index("photos")
        >>> index.update()
        >>> for hit in index.search("a red mug", top=5):
        ...     print(hit.path, hit.score)
    """
    paths = [] if path is None else as_paths(path)
    location = None if index is None else Path(index)
    return Index(list(map(str, paths)), choose_model(model, **keywords), location, words)


class Index:
    """An index of one or more directories, from `open_index`: a row per image and per moment of a video.

    Examples:
        >>> index = pe.open_index("photos")
        >>> print(len(index), index.model)
    """

    def __init__(
        self, paths: Sequence[str], model: ModelSpec | Encoder, location: Path | None, words: bool | None = None
    ) -> None:
        self._paths, self._model, self._location, self._words = list(paths), model, location, words
        self._encoders: dict[TowerChoice, Encoder] = {}
        self._stores: list[IndexStore] = []

    def __repr__(self) -> str:
        return f"Index({self._name})"

    @property
    def _name(self) -> str:
        return ", ".join(self._paths) or str(self._location or Path.cwd())

    @property
    def exists(self) -> bool:
        """Return whether every directory, or a parent, has an index."""
        self._stores = self._stores or find_stores(self._paths, self._location)
        return bool(self._stores)

    @property
    def source(self) -> str:
        """Name or path of the model that made the index."""
        return str(self._open()[0].settings["source"])

    @property
    def model(self) -> str:
        """Name of the model that made the index."""
        return str(self._open()[0].settings["model"])

    def __len__(self) -> int:
        return sum(map(len, self._open()))

    def _open(self) -> list[IndexStore]:
        """Return the stored tables; SearchIndexError if a directory has no index."""
        if not self.exists:
            location = [] if self._location is None else ["--index", str(self._location)]
            command = shlex.join(["pe", "index", *(self._paths or ["."]), *location])
            raise SearchIndexError(f"{self._name} has no index; create one with: {command}")
        return self._stores

    def update(
        self,
        *,
        every: float | None = None,
        rebuild: bool = False,
        exclude: Sequence[str] | None = None,
        ray: str | None = None,
        verify: bool = False,
        progress: Track = untracked,
    ) -> UpdateReport:
        """Create the index, or bring it up to date: read new and changed files, and remove deleted ones.

        Unreadable files are skipped and reported; an interrupted update resumes when it is repeated.

        Args:
            every: Seconds between the frames of a video, 1 by default.
            rebuild: Start from scratch, by default with the old index's model and rate, reading words as before.
            exclude: Patterns of files to leave out, in gitignore's syntax, and to remove from the index. They are
                stored, and apply until others are given. `.peignore` files in the directory exclude more.
            ray: Address of a Ray cluster whose machines read the files.
            verify: First check all of the index; by default everything but thumbnails.

        Raises:
            SearchIndexError: The index is damaged, or of another model, rate or directory.
            ConfigError: A pattern is invalid, or the index is of several directories.
            OutputError: The index cannot be written, or another process updates it.
            ClusterError: The cluster cannot be reached.
            ModelError: The model cannot be loaded.
        """
        # here, since a search needs no video decoder
        from perception_encoder.search.storage.cluster import reading_on_cluster
        from perception_encoder.search.storage.update import read_here, update_store, writable_store

        if len(self._paths) > 1:
            raise ConfigError(f"only one directory can be updated, not {self._name}; open each one separately")
        parse_patterns(exclude or ())  # before the model is loaded
        home = None if self._paths else self._location or nearest_index(Path())
        directory = indexed_directory(home) if home and IndexStore.exists(home) else Path(*self._paths)
        with (
            reading_on_cluster(ray) if ray else nullcontext(read_here) as read,
            writable_store(directory, self._model, every, rebuild, self._location, verify, self._words) as (
                store,
                encoder,
            ),
        ):
            if exclude is not None:
                store.exclude(exclude)
            report = update_store(store, encoder, progress, read)
        self._stores = []
        return report

    def search(
        self,
        queries: QueryLike | Sequence[QueryLike],
        top: int = 10,
        *,
        where: str | None = None,
        exclude: Sequence[str] = (),
        min_score: float | None = None,
        collapse: bool = False,
        thumbnails: bool = False,
    ) -> SearchResult:
        """Find the images and moments most similar to each query, best first, without the query's own file.

        Args:
            queries: A text, the path or URL of an image or a video, a PIL image, an array, or a `Hit`. Several terms
                are a text like "2:dog + park - snow", or a mapping from texts (as they are) or paths to weights,
                `{"dog": 2, "snow": -1}`. A list holds several queries.
            top: Maximum number of hits of a query.
            where: A condition in SQL on the columns path, kind ('image' or 'video'), date ('2024-07-31' is the day),
                size (bytes), length (s), width, height, lat, lon (degrees) and camera.
            exclude: Patterns of files to leave out, in gitignore's syntax.
            min_score: Minimum cosine similarity of a hit.
            collapse: Of images and moments that are nearly the same, return the best; its `similar` counts the others.
            thumbnails: Also read the hits' thumbnails.

        Raises:
            SearchIndexError: There is no index, another model made it, or you have to name its model.
            ConfigError: A condition, pattern, query or minimum is invalid.
            InputError: A file of a query cannot be read.

        Examples:
            >>> index.search({"dog": 2, "snow": -1}, where="date >= '2024' and kind = 'image'")
        """
        stores, parsed, is_excluded = self._open(), as_queries(queries), excluded_names(exclude)
        encoder = self._encoder(_towers(parsed))
        hits = []
        for query, vector in zip(parsed, query_vectors(encoder, parsed), strict=True):
            keep = partial(may_be_hit, query, is_excluded)
            hits.append(best_hits(stores, vector, top, where, min_score, thumbnails, keep, collapse, query.words))
        return SearchResult(model=encoder.name, searched=len(self), queries=parsed, by_query=tuple(map(tuple, hits)))

    def _encoder(self, towers: TowerChoice) -> Encoder:
        """Return the encoder of all indexes, with at least these towers, loaded once."""
        loaded = self._encoders.get("all") or self._encoders.get(towers)
        encoder = load_encoder(self._open(), loaded or self._model, towers)
        return self._encoders.setdefault(towers, encoder)

    def hit(self, row_id: str) -> Hit:
        """Return the image or moment with an id, to search for similar ones; SearchIndexError if it does not exist."""
        *others, last = self._open()
        for store in others:
            with suppress(SearchIndexError):
                return row_hit(store, store.row(row_id))
        return row_hit(last, last.row(row_id))

    def near_duplicates(
        self,
        *,
        min_score: float = SIMILAR,
        all_but_one: bool = False,
        where: str | None = None,
        exclude: Sequence[str] = (),
        thumbnails: bool = False,
    ) -> list[list[Hit]]:
        """Group images and moments that are nearly the same, largest group first; all pairs are compared.

        Args:
            min_score: Minimum cosine similarity.
            all_but_one: Of each group, only the images that are this similar to the one with the most pixels, without
                it and without other names of its file.
            where, exclude, thumbnails: See `search`.
        """
        groups = find_duplicates(self._open(), where, thumbnails, min_score, exclude)
        return [spare for group in groups if (spare := all_but_largest(group, min_score))] if all_but_one else groups

    def export_vectors(self, out: str | Path, *, to: VectorStore | None = None, overwrite: bool = False) -> int:
        """Write the embeddings as `pe.embed` does, newest first, or for a vector store; return their number.

        Args:
            out: A .parquet file, a .lance table, or a directory in clip-retrieval's layout. A moment of a video is a
                row with its `start`, `end` and, in `times`, the second of its frame. If the index has words, so have
                the rows.
            to: Write a directory with the program that loads it into this store.
            overwrite: Replace `out` if it exists; a store's directory only if it has no other files.

        Raises:
            ConfigError: The suffix or the store is unknown.
            OutputError: The index is empty, or `out` exists or cannot be written.
        """
        from perception_encoder.inference.output import EmbeddingWriter
        from perception_encoder.search.vector_stores import write_vectors

        stores, out = self._open(), Path(out)
        if not len(self):
            raise OutputError(f"the index of {self._name} is empty, so there is nothing to write")
        for store in stores:
            store.check(stores[0].settings, stores[0].settings["source"])
        if to is not None:
            return write_vectors(stores, out, to, overwrite)
        settings = stores[0].settings | ({"words": True} if any(store.reads_words for store in stores) else {})
        with EmbeddingWriter(out, settings, overwrite=overwrite, resumes=False) as writer:
            for store, row, words in rows_with_words(stores):
                times = () if row.time is None else (row.time,)
                writer.add([Embedding(row_hit(store, row).item, row.vector, times, words)])
            return writer.finish()


def search_files(
    queries: QueryLike | Sequence[QueryLike],
    paths: str | Path | Sequence[str | Path],
    model: ModelLike = None,
    top: int = 10,
    *,
    min_score: float | None = None,
    exclude: Sequence[str] = (),
    progress: Track = untracked,
    **keywords: Unpack[ModelKeywords],
) -> SearchResult:
    """Encode files and search them, without an index; or search the embeddings that `pe.embed` or clip-retrieval wrote.

    A video is one hit, with the second that is most similar. Unreadable files are skipped and reported.

    Args:
        queries: See `Index.search`.
        paths: Images, videos, directories, globs, tables, tars, URLs, or one file of embeddings.
        model: An encoder, or its name or path; by default the default model (`pe models`).
        top: Maximum number of hits of a query.
        min_score: Minimum cosine similarity of a hit.
        exclude: Patterns of files in directories to leave out, in gitignore's syntax.
        **keywords: Fields of a `ModelSpec`.

    Raises:
        MediaNotFoundError: A path does not exist.
        DataError: There are no files.
        ConfigError, InputError: A query is invalid, or its file cannot be read.
        SearchIndexError: The embeddings are of another model.
        ModelError: The model cannot be loaded.

    Examples:
        >>> for hit in pe.search_files("a red mug", "photos", top=5):
        ...     print(hit.path, hit.score)
    """
    parsed = as_queries(queries)
    if asked := [term.name for query in parsed for term in query.terms if term.by == "words"]:
        raise ConfigError(f"{asked[0][:60]!r} is to be found by words, which only an index has: see `pe index`")
    check_score(min_score)
    paths = as_paths(paths)
    check_paths(paths)
    archive = read_collection(Path(paths[0])) if len(paths) == 1 else None
    left_out: Counter[str] = Counter()
    items = [] if archive else list_media_items(paths, left_out, exclude)
    chosen = choose_model(model, **keywords)
    if archive is not None and isinstance(chosen, ModelSpec):
        named = str(chosen.name or default_model())
        if (canonical := canonical_name(named)) is not None:  # before a download
            _check_archive(paths[0], archive[1], {"model": canonical}, named)
    encodes_images = archive is None or any(archive[0].is_video)  # a video's best frame is searched for
    towers = "all" if encodes_images else _towers(parsed)
    encoder = adopt(load_chosen(chosen, towers), archive[1] if archive else {"decoding": "reduced"})
    vectors = query_vectors(encoder, parsed)  # first: a bad query should not cost the files' encoding
    if archive is None:
        collection = encode_media(encoder, items, progress)
    else:
        collection, settings = archive
        _check_archive(paths[0], settings, encoder.describe(encoder.feature()), encoder.source)
    pairs = zip(parsed, vectors, strict=True)
    return SearchResult(
        model=encoder.name,
        searched=len(collection.items),
        queries=parsed,
        by_query=tuple(tuple(rank_files(encoder, collection, *pair, top, min_score)) for pair in pairs),
        encoded=0 if archive else collection.total,
        skipped=tuple(collection.failures),
        left_out=left_out,
    )


def _check_archive(path: str | Path, settings: Mapping[str, Any], now: Mapping[str, Any], model: str) -> None:
    """Raise SearchIndexError if embeddings with these settings were not made as `model` makes them `now`."""
    known = now.keys() & settings.keys()  # a file of another program may lack some
    known -= {"model"} if "weight_hash" in known else set()  # the same weights may have several names
    different = different_settings(settings, {name: now[name] for name in known})
    if "model" in different or "weight_hash" in different:
        raise SearchIndexError(f"{path} was not made with {model}; choose {settings['model']}")
    if different:
        changes = ", ".join(f"{key} {settings[key]}, not {now[key]}" for key in different)
        raise SearchIndexError(f"{path} was made with {changes}, so it cannot be searched with this encoder")


def _towers(queries: Sequence[Query]) -> TowerChoice:
    """Return the towers needed to encode the queries: only the text tower if there are no images or videos."""
    sources = [term.source for query in queries for term in query.terms]
    return "all" if any(isinstance(source, Media) and source.kind != "text" for source in sources) else "text"


def as_queries(queries: QueryLike | Sequence[QueryLike]) -> tuple[Query, ...]:
    """Return one or several queries of a caller: see `Index.search`."""
    return tuple(map(_as_query, queries if isinstance(queries, list) else [queries]))


def _as_query(query: QueryLike) -> Query:
    if isinstance(query, Query):
        return query
    if isinstance(query, Mapping):
        if not query:
            raise ConfigError("the query is empty; say what to look for")
        terms = tuple(Term(source=_source(term), weight=weight) for term, weight in query.items())
        return Query(name=" + ".join(f"{term.weight:g}:{term.name}" for term in terms), terms=terms)
    if isinstance(query, str):
        return parse_words([query])
    term = Term(source=_source(query))
    return Query(name=term.name, terms=(term,))


def _source(term: QueryTerm) -> Media | IndexRow:
    if isinstance(term, Hit):
        return term.row or term.item.media()
    return parse_term(term) if isinstance(term, str) else resolve(term)


def find_stores(paths: Sequence[str], location: Path | None) -> list[IndexStore]:
    """Open the indexes of some directories; return none unless all directories have one.

    A subdirectory uses the index of the nearest directory around it, limited to the subdirectory. `location`: where
    the index of them all is stored; SearchIndexError if a path is not in the indexed directory. Logs a warning for
    each unfinished index.
    """
    stores: list[IndexStore] = []
    for path in paths or ["."]:
        directory = nearest_index(Path(path)) if location is None else location
        if directory is None or not IndexStore.exists(directory):
            return []
        store = IndexStore.open(directory)
        if paths or location is None:
            limit_store(store, path)
        if store.below and not len(store):
            return []  # a hidden directory, for example, has no rows
        stores.append(store)
    stores = _without_overlap(stores)
    for store in stores:
        if store.unfinished:
            finish = f"unfinished, so files may be missing; finish it with: {index_command(store.directory)}"
            state = "being updated, so files may be missing" if store.being_written else finish
            logger.warning("the index of %s is %s", escape_name(store.root), escape_name(state))
    return stores


def _without_overlap(stores: Sequence[IndexStore]) -> list[IndexStore]:
    """Leave out indexes whose rows are all in another one, such as photos/2024 beside photos."""
    kept: list[IndexStore] = []
    for store in sorted(stores, key=lambda store: len(store.below)):  # stable, and the wider ones first
        directory = store.directory.absolute()
        if not any(other.directory.absolute() == directory and store.below.startswith(other.below) for other in kept):
            kept.append(store)
    return kept


def directories_to_index(paths: Sequence[str]) -> list[str]:
    """Return the directories without an index, if all paths are directories."""
    are_directories = all(Path(path).is_dir() for path in paths)
    return [path for path in paths if nearest_index(Path(path)) is None] if are_directories else []
