"""Ask for pictures and videos: a folder's index where it has one, else the files themselves."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from perception_encoder.errors import InputError, SearchIndexError
from perception_encoder.inference.collection import encode_media, list_media_items, read_collection
from perception_encoder.inference.encoder import load
from perception_encoder.models.registry import canonical_name, portable_name
from perception_encoder.search.index.home import limited, nearest_home
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import Row
from perception_encoder.search.query.hits import Hit, find_hits, find_in_index
from perception_encoder.search.query.query import Query, encode_queries

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Queries and their hits."""

    model: str
    searched: str
    """What was searched, in words."""
    queries: Sequence[Query]
    hits: list[list[Hit]]
    failures: list[InputError] = field(default_factory=list)
    total: int = 0
    """Files that were encoded for it."""


def find_indexes(files: Sequence[str], home: Path | None = None, model: str | None = None) -> list[Index]:
    """The indexes of the folders that are named, or of the current one; none unless every folder has one.

    A subfolder has that of the nearest folder around it, limited to what is in the subfolder, unless that is of
    another model than `model`. `home`: the directory that holds the index of them all; SearchIndexError if a folder is
    not in the one that was indexed. A warning is logged for each that is unfinished.
    """
    if home is not None:
        if not Index.exists(home):
            make = f"pe index FOLDER --index {shlex.quote(str(home))}"
            raise SearchIndexError(f"{home} has no index; make one with: {make}")
        whole = Index.open(home)
        indexes = [limited(Index.open(home), folder) for folder in files or [str(whole.root)]]
    else:
        indexes = _indexes_around(files, model)
    indexes = _apart(indexes)
    for index in indexes:
        if index.unfinished:
            remedy = f"finish it with: pe index {shlex.quote(str(index.folder))}"
            logger.warning("the index of %s is unfinished, so files may be missing; %s", index.root, remedy)
    return indexes


def _indexes_around(files: Sequence[str], model: str | None) -> list[Index]:
    indexes = []
    for folder in map(Path, files or [""]):
        around = nearest_home(folder)
        if around is None:
            return []
        index = limited(Index.open(around), folder)
        if index.below and (not len(index) or (model is not None and _is_of_another(index, model))):
            return []  # there are no rows of a hidden folder, for one
        indexes.append(index)
    return indexes


def _is_of_another(index: Index, model: str) -> bool:
    """Whether an index's vectors are of another model than the one that is named."""
    named = canonical_name(model)
    if named not in (None, index.settings["model"]):
        return True
    if (named or portable_name(model)) in (index.settings["source"], canonical_name(index.settings["source"])):
        return False
    return load(model, towers="text").weight_hash != index.settings["weight_hash"]


def _apart(indexes: Sequence[Index]) -> list[Index]:
    """Without those that show only rows that another one shows too, as if photos and photos/2024 are named."""
    apart: list[Index] = []
    for index in sorted(indexes, key=lambda index: len(index.below)):  # stable, and the wider ones first
        home = index.folder.absolute()
        if not any(other.folder.absolute() == home and index.below.startswith(other.below) for other in apart):
            apart.append(index)
    return apart


def folders_to_index(files: Sequence[str]) -> list[str]:
    """Folders without an index, where all that is named are folders."""
    all_folders = all(Path(file).is_dir() for file in files)
    return [file for file in files if nearest_home(Path(file)) is None] if all_folders else []


def ask_indexes(
    indexes: Sequence[Index],
    queries: Sequence[Query],
    model: str | None,
    top: int,
    where: str | None,
    thumbnails: bool = False,
) -> Answer:
    """Search indexes of one model, by that model unless another copy of it is named; see `find_in_index`.

    Raises SearchIndexError where an index is of another model, and the InputError of a query.
    """
    for index in indexes:
        index.check_name(model or indexes[0].settings["model"])
    encoder = load(model or indexes[0].settings["source"], towers=_towers(queries))
    settings = encoder.describe(encoder.feature())
    for index in indexes:
        index.check(settings, model)
    vectors = encode_queries(encoder, queries)
    by_index = [find_in_index(index, queries, vectors, top, where, thumbnails) for index in indexes]
    by_query = [sorted(chain(*found), key=lambda hit: -hit.score)[:top] for found in zip(*by_index, strict=True)]
    searched = f"{sum(map(len, indexes))} pictures and moments, by {encoder.name}"
    return Answer(model=encoder.name, searched=searched, queries=queries, hits=by_query)


def _towers(queries: Sequence[Query]) -> Literal["all", "text"]:
    """What encodes the queries: the text tower alone if there are no images or videos among their terms."""
    terms = [term.what for query in queries for term in query.terms]
    return "text" if all(isinstance(what, Row) or what.kind == "text" for what in terms) else "all"


def find_row(indexes: Sequence[Index], id: str) -> Row:
    """The row of an id in one of several indexes; SearchIndexError where none has it."""
    for index in indexes[:-1]:
        with suppress(SearchIndexError):
            return index.row(id)
    return indexes[-1].row(id)


def ask_files(
    files: Sequence[str],
    queries: Sequence[Query],
    model: str,
    top: int,
    begin: Callable[[int], Callable[[int], object]],
) -> Answer:
    """Encode files and search them; of what `pe embed` or clip-retrieval wrote, search the vectors.

    Raises the InputError or ConfigError of a query, DataError without files, SearchIndexError for another model's.
    `begin` is told how many there are, and gives what is told of those done.
    """
    stored = read_collection(Path(files[0])) if len(files) == 1 else None
    items = [] if stored else list_media_items(files)
    if stored is not None and canonical_name(model) not in (None, stored[1].get("model", canonical_name(model))):
        raise _of_another_model(files[0], model, stored[1]["model"])
    sees = stored is None or any(stored[0].is_video)  # a video's frame is looked for
    encoder = load(model, towers="all" if sees else _towers(queries))
    vectors = encode_queries(encoder, queries)  # first: a bad query should not cost the files' encoding
    if stored is None:
        collection = encode_media(encoder, items, begin(len(items)))
    else:
        collection, settings = stored
        if settings.get("weight_hash", encoder.weight_hash) != encoder.weight_hash:
            raise _of_another_model(files[0], model, settings["model"])
    return Answer(
        model=encoder.name,
        searched=f"{len(collection.items)} pictures and videos, by {encoder.name}",
        queries=queries,
        hits=find_hits(encoder, queries, vectors, collection, top),
        failures=collection.failures,
        total=0 if stored else collection.total,
    )


def _of_another_model(path: str, model: str, made_by: str) -> SearchIndexError:
    return SearchIndexError(f"{path} was made by another model than {model}; choose it: {made_by}")
