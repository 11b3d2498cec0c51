"""Answer the queries of a command: by the indexes of directories, or by encoding files."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import InputError, MissingExtraError, OutputError, SearchIndexError
from perception_encoder.inference.collection import encode_media, list_media_items, read_collection
from perception_encoder.inference.load import load
from perception_encoder.inference.media import Media
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import Embedding
from perception_encoder.models.registry import canonical_name, portable_name, same_name
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.ranking import FileGallery, Hit, IndexGallery, item_of, query_vectors, search
from perception_encoder.search.storage.location import limit_index, nearest_index
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.storage.store import Store
from perception_encoder.search.terms import Query

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Queries and their hits."""

    model: str
    gallery: str
    """What was searched, in words."""
    queries: Sequence[Query]
    hits: list[list[Hit]]
    failures: list[InputError] = field(default_factory=list)
    total: int = 0
    """Files that were encoded for it."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Files of directories that are neither images nor videos, by type: RAW, SVG, other."""


def find_indexes(files: Sequence[str], directory: Path | None = None, model: str | None = None) -> list[Store]:
    """Open the indexes of the given directories, or of the current one; return none unless every directory has one.

    A subdirectory uses the index of the nearest directory around it, limited to the subdirectory, unless that index
    is of another model than `model`. `directory`: where the index of them all is stored; SearchIndexError if a path is
    not in the indexed one. Logs a warning for each unfinished index.
    """
    if directory is not None:
        if not Store.exists(directory):
            command = f"pe index DIR --index {shlex.quote(str(directory))}"
            raise SearchIndexError(f"{directory} has no index; make one with: {command}")
        root = str(Store.open(directory).root)
        indexes = [limit_index(Store.open(directory), file) for file in files or [root]]
    else:
        indexes = _nearest_indexes(files, model)
    indexes = _without_overlap(indexes)
    for index in indexes:
        if index.unfinished:
            remedy = f"finish it with: pe index {shlex.quote(escape_name(index.directory))}"
            root = escape_name(index.root)
            logger.warning("the index of %s is unfinished, so files may be missing; %s", root, remedy)
    return indexes


def _nearest_indexes(files: Sequence[str], model: str | None) -> list[Store]:
    indexes = []
    for file in map(Path, files or [""]):
        directory = nearest_index(file)
        if directory is None:
            return []
        index = limit_index(Store.open(directory), file)
        if index.below and (not len(index) or (model is not None and _has_other_model(index, model))):
            return []  # a hidden directory, for example, has no rows
        indexes.append(index)
    return indexes


def _has_other_model(index: Store, model: str) -> bool:
    """Whether an index is of another model than the given one."""
    name = canonical_name(model)
    if name is not None and not same_name(name, index.settings["model"]):
        return True
    if (name or portable_name(model)) in (index.settings["source"], canonical_name(index.settings["source"])):
        return False
    return load(model, towers="text").weight_hash != index.settings["weight_hash"]


def _without_overlap(indexes: Sequence[Store]) -> list[Store]:
    """Leave out indexes whose rows another one includes, as for photos and photos/2024."""
    apart: list[Store] = []
    for index in sorted(indexes, key=lambda index: len(index.below)):  # stable, and the wider ones first
        directory = index.directory.absolute()
        if not any(other.directory.absolute() == directory and index.below.startswith(other.below) for other in apart):
            apart.append(index)
    return apart


def directories_to_index(files: Sequence[str]) -> list[str]:
    """Return the directories without an index, if all paths are directories."""
    are_directories = all(Path(file).is_dir() for file in files)
    return [file for file in files if nearest_index(Path(file)) is None] if are_directories else []


def find_row(indexes: Sequence[Store], row_id: str) -> IndexRow:
    """Return the row of an id in one of several indexes; SearchIndexError if none has it."""
    for index in indexes[:-1]:
        with suppress(SearchIndexError):
            return index.row(row_id)
    return indexes[-1].row(row_id)


def search_indexes(
    indexes: Sequence[Store],
    queries: Sequence[Query],
    model: str | None,
    top: int,
    where: str | None,
    thumbnails: bool = False,
) -> Answer:
    """Search indexes of one model with that model, or with a copy of it (`model`); see `search`.

    Raises SearchIndexError if an index is of another model, and the InputError of a query.
    """
    for index in indexes:
        index.check_name(model or indexes[0].settings["model"])
    encoder = load(model or indexes[0].settings["source"], towers=_towers(queries))
    settings = encoder.describe(encoder.feature())
    for index in indexes:
        index.check(settings, model)
    galleries = [IndexGallery(index) for index in indexes]
    hits = search(galleries, queries, query_vectors(encoder, queries), top, where, thumbnails)
    gallery = f"{sum(map(len, galleries))} images and moments, by {encoder.name}"
    return Answer(model=encoder.name, gallery=gallery, queries=queries, hits=hits)


def search_files(
    files: Sequence[str],
    queries: Sequence[Query],
    model: str,
    top: int,
    begin: Callable[[int], Callable[[int], object]],
) -> Answer:
    """Encode files and search them; of the output of `pe embed` or clip-retrieval, search the stored embeddings.

    Raises the InputError or ConfigError of a query, DataError without files, SearchIndexError for another model's
    embeddings. `begin` gets the number of files and returns a function that gets the numbers of files done.
    """
    archive = read_collection(Path(files[0])) if len(files) == 1 else None
    left_out: Counter[str] = Counter()
    items = [] if archive else list_media_items(files, left_out)
    name = canonical_name(model)
    if archive is not None and name is not None and not same_name(name, archive[1].get("model", name)):
        raise _other_model(files[0], model, archive[1]["model"])
    encodes_images = archive is None or any(archive[0].is_video)  # a video's best frame is searched for
    encoder = load(model, towers="all" if encodes_images else _towers(queries))
    vectors = query_vectors(encoder, queries)  # first: a bad query should not cost the files' encoding
    if archive is None:
        collection = encode_media(encoder, items, begin(len(items)))
    else:
        collection, settings = archive
        if settings.get("weight_hash", encoder.weight_hash) != encoder.weight_hash:
            raise _other_model(files[0], model, settings["model"])
    return Answer(
        model=encoder.name,
        gallery=f"{len(collection.items)} images and videos, by {encoder.name}",
        queries=queries,
        hits=search([FileGallery(encoder, collection)], queries, vectors, top),
        failures=collection.failures,
        total=0 if archive else collection.total,
        left_out=left_out,
    )


def _towers(queries: Sequence[Query]) -> Literal["all", "text"]:
    """Return the towers that encode the queries: the text tower alone if they have no images or videos to encode."""
    sources = [term.source for query in queries for term in query.terms]
    return "all" if any(isinstance(each, Media) and each.kind != "text" for each in sources) else "text"


def _other_model(path: str, model: str, own: str) -> SearchIndexError:
    return SearchIndexError(f"{path} was made by another model than {model}; choose it: {own}")


_GROUP = 1000  # samples added at a time
_FIELDS = ("start", "stop", "time", "length", "date", "size")


def export_vectors(index: Store, out: Path, overwrite: bool = False) -> int:
    """Write an index's vectors as `pe embed` does, newest first; return their number.

    `out`: .parquet, .lance, or a directory of .npy in clip-retrieval's layout. A moment of a video is a row with its
    `start`, `end` and, in `times`, the second of its frame. Raises ConfigError, OutputError.
    """
    rows = index.rows()
    if not rows:
        raise OutputError(f"the index of {index.directory} is empty, so there is nothing to write")
    with EmbeddingWriter(out, index.settings, overwrite=overwrite) as writer:
        writer.add([Embedding(item_of(index, row), row.vector, _times(row)) for row in rows])
        return writer.finish()


def _times(row: IndexRow) -> tuple[float, ...]:
    return () if row.time is None else (row.time,)


def export_fiftyone(index: Store, name: str, overwrite: bool = False) -> dict[str, int]:
    """Create persistent FiftyOne datasets of an index; return their names and numbers of samples.

    NAME holds the images and NAME-moments the moments of videos, since FiftyOne separates the two; files in tars are
    left out. The vectors are in the field `embedding`, ready for `fiftyone.brain.compute_similarity`.
    Raises MissingExtraError without FiftyOne, OutputError if a dataset of a name exists (unless `overwrite`).
    """
    try:
        import fiftyone
    except ImportError:
        raise MissingExtraError("fiftyone", "fiftyone") from None
    kinds = {name: "image", f"{name}-moments": "video"}
    by_name = {each: [row for row in index.rows() if row.kind == kind] for each, kind in kinds.items()}
    existing = [each for each, rows in by_name.items() if rows and fiftyone.dataset_exists(each)]
    if existing and not overwrite:
        raise OutputError(f"FiftyOne has a dataset {existing[0]}; choose another --name, or replace it (--overwrite)")
    counts = {}
    for each, rows in by_name.items():
        samples = [_sample(fiftyone, index, row) for row in rows if item_of(index, row).source is not None]
        if samples:
            dataset = fiftyone.Dataset(each, persistent=True, overwrite=overwrite)
            dataset.info = {key: index.settings[key] for key in ("model", "weight_hash", "layer", "pool")}
            for start in range(0, len(samples), _GROUP):
                dataset.add_samples(samples[start : start + _GROUP], progress=False)
            counts[each] = len(samples)
    return counts


def _sample(fiftyone: Any, index: Store, row: IndexRow) -> Any:
    fields = {field: value for field in _FIELDS if (value := getattr(row, field)) is not None}
    path = str(item_of(index, row).source)
    return fiftyone.Sample(filepath=path, pe_id=row.id, embedding=row.vector, **fields)
