"""Ask for pictures and videos: a folder's index where it has one, else the files themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perception_encoder.errors import InputError, SearchIndexError
from perception_encoder.inference.collection import encode_media, list_media, read_collection
from perception_encoder.inference.encoder import load
from perception_encoder.search.hits import Hit, find_hits, find_in_index
from perception_encoder.search.index import Index
from perception_encoder.search.query import Query, encode_queries


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


def find_index(files: Sequence[str]) -> Index | None:
    """The index of the one folder that is named, or of the current one where none is; None where there is none."""
    folder = Path(files[0]) if files else Path()
    return Index.open(folder) if len(files) < 2 and Index.exists(folder) else None


def ask_index(
    index: Index, queries: Sequence[Query], model: str | None, top: int, where: str | None, thumbnails: bool = False
) -> Answer:
    """Search an index, by the model that made it unless another copy of it is named; see `find_in_index`."""
    encoder = load(model or index.settings["source"])
    hits = find_in_index(encoder, queries, index, top, where, thumbnails)
    searched = f"{len(index)} pictures and moments, by {encoder.name}"
    return Answer(model=encoder.name, searched=searched, queries=queries, hits=hits)


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
    items = [] if stored else list_media(files)
    encoder = load(model)
    vectors = encode_queries(encoder, queries)  # first: a bad query should not cost the files' encoding
    if stored is None:
        collection = encode_media(encoder, items, begin(len(items)))
    else:
        collection, settings = stored
        if settings.get("weight_hash", encoder.weight_hash) != encoder.weight_hash:
            raise SearchIndexError(f"{files[0]} was made by another model than {model}; choose it: {settings['model']}")
    return Answer(
        model=encoder.name,
        searched=f"{len(collection.items)} pictures and videos, by {encoder.name}",
        queries=queries,
        hits=find_hits(encoder, queries, vectors, collection, top),
        failures=collection.failures,
        total=0 if stored else collection.total,
    )
