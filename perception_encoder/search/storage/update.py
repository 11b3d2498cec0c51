"""Bring a directory's index up to date: encode new files, carry over moved ones, remove deleted ones.

Rows are committed regularly, whole files at a time, so that a killed run resumes where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from perception_encoder.errors import ConfigError, InputError, SearchIndexError, needs_extra
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load_chosen
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.defaults import default_model
from perception_encoder.models.registry import portable_name
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.search.storage.database import IndexRow, is_unchanged
from perception_encoder.search.storage.location import prepare_location
from perception_encoder.search.storage.reader import (
    File,
    FileReader,
    FileResult,
    batches,
    dated,
    find_changes,
    listed_items,
    row_id,
)
from perception_encoder.search.storage.seal import STORE, index_command, salvage, salvage_words
from perception_encoder.search.storage.trust import adopt, load_encoder, remember_model, trusted_model
from perception_encoder.search.storage.words import Unread
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.words.reader import TextLine, can_read_words, read_each

logger = logging.getLogger(__name__)

COMMIT_SECONDS, _COMMIT_ROWS = 15.0, 4096  # maximum work lost to a kill
FIRST_COMMIT_SECONDS = 1.0  # doubles up to the above; the page shows the first images soon


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """Result of an index update, as numbers of files."""

    model: str
    """Name of the index's model."""
    source: str
    """The name or path that was given."""
    added: int
    """New or changed files, encoded."""
    moved: int
    """Files whose content is already indexed under another name."""
    deleted: int
    """Other files that no longer exist, or are excluded now."""
    unchanged: int
    """Files with the same content under the same name."""
    rows: int
    """Number of images and moments in the index after the update."""
    words: int
    """Number of images and moments whose words were read."""
    wordless: int
    """Number of files in `skipped` that are indexed, but whose words could not be read."""
    seconds: float
    skipped: tuple[InputError, ...]
    """Files that could not be read."""
    known: int
    """Number of skipped files at the end of `skipped` that the last update skipped for the same reason."""
    left_out: Mapping[str, int]
    """Number of other files, by suffix."""

    @property
    def total(self) -> int:
        """Number of images and videos in the directory."""
        return self.added + self.moved + self.unchanged + len(self.skipped) - self.wordless

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        names = ("model", "added", "moved", "deleted", "unchanged", "rows", "words")
        skipped = [error.to_dict() for error in self.skipped]
        return {**{n: getattr(self, n) for n in names}, "skipped": skipped, "left_out": dict(self.left_out)}


@contextmanager
def writable_store(
    media: Path,
    model: ModelSpec | Encoder,
    every: float | None = None,
    rebuild: bool = False,
    directory: Path | None = None,
    verify: bool = False,
    words: bool | None = None,
) -> Iterator[tuple[IndexWriter, Encoder]]:
    """Yield a directory's index, locked for writing, and its encoder; create the index if there is none.

    Raises OutputError, SearchIndexError (a damaged index, or one of another model, rate, decoding or directory),
    ConfigError for a model of texts, and what `load` raises.

    Args:
        model: By default the index's own, or the default model for a new index.
        every: Seconds between the frames of a video.
        rebuild: Start from scratch, by default with the old index's model, dimensions, rate, decoding and
            reading of words.
        directory: Where the index is stored; by default the directory itself.
        verify: See `Index.update`.
        words: Whether updates read words; see `open_index`.
    """
    if words:
        with needs_extra("words", "rapidocr"):
            import rapidocr  # noqa: F401
    root, directory = prepare_location(media, directory)
    with IndexWriter.for_writing(directory, root):
        if rebuild or not IndexWriter.exists(directory):
            words = salvage_words(directory / STORE) if words is None else words
            store, encoder = _create(root, directory, model, every)
        else:
            IndexWriter.mend(directory)
            store = IndexWriter.open(directory, whole=True, verify=verify, media=root)
            encoder = load_encoder([store], model)
        for name, asked in {"every": every, "decoding": encoder.decoding}.items():
            if asked not in (None, known := store.settings[name]):
                rebuilding = index_command(directory, "--rebuild", f"--{name}", f"{asked}")
                raise SearchIndexError(
                    f"the index of {directory} was made with {name} {known}, not {asked}; rebuild it with: {rebuilding}"
                )
        remember_model(store, encoder.source)
        if words not in (None, store.reads_words):
            store.set_reads_words(bool(words))
        with closing(store):
            yield store, encoder


def _create(
    root: Path, directory: Path, model: ModelSpec | Encoder, every: float | None
) -> tuple[IndexWriter, Encoder]:
    earlier = salvage(directory / STORE) or {}
    named = model.source if isinstance(model, Encoder) else str(model.name)
    source = portable_name(named or (trusted_model(directory, earlier) if earlier else default_model()))
    encoder = load_chosen(replace(model, name=source) if isinstance(model, ModelSpec) else model)
    kept = earlier if source == earlier.get("source") else {**earlier, "dimensions": None}
    encoder = adopt(encoder, {"decoding": "reduced", **kept})
    if not encoder.reads_images:
        raise ConfigError(f"{encoder.name} reads texts only; an index needs a model of images")
    encoder.runtime.prepare(encoder.feature().executed)
    elsewhere = {} if root == directory else {"root": str(root)}
    rate = float(every or earlier.get("every", 1.0))
    settings = {**encoder.describe(encoder.feature()), **elsewhere, "source": source, "every": rate}
    return IndexWriter.create(directory, settings), encoder


def read_here(
    store: IndexWriter, encoder: Encoder, digests: set[str], files: Sequence[File]
) -> Iterator[list[FileResult]]:
    """Read files on this machine's cores; yield a list of results per batch. `digests`: contents already indexed."""
    reader = FileReader(encoder, store.settings["every"], digests)
    return map_in_order(reader.read, batches(files, encoder.batch_size), encoder.runtime.workers, encoder.runtime)


def update_store(
    store: IndexWriter,
    encoder: Encoder,
    progress: Track = untracked,
    read: Callable[[IndexWriter, Encoder, set[str], Sequence[File]], Iterable[list[FileResult]]] = read_here,
) -> UpdateReport:
    """Make an index match its directory; skip and report bad files.

    Raises OutputError if the index cannot be written, and what `read` raises; committed rows stay.

    Args:
        store, encoder: From `writable_store`.
        read: Reads the files: `read_here`, or `reading_on_cluster`'s.
    """
    started = time.perf_counter()
    indexed = store.files()
    changes = find_changes(store.root, indexed, store.excluded)
    digests = {state.digest for state in indexed.values()}
    if changes.candidates or changes.gone:
        store.begin()
    pending, files = _Pending(store, {path: state.digest for path, state in indexed.items()}), changes.candidates
    try:
        while files:
            results = chain.from_iterable(read(store, encoder, digests, files))
            for result in progress(results, escape_name(store.root), len(files)):
                pending.take(result)
            pending.commit()
            files, pending.lost, digests = pending.lost, [], set()
    finally:
        pending.commit()
    store.replace(changes.gone, [])
    skipped, known = [*changes.failures, *pending.skipped], store.unreadable
    store.finish(list(map(str, skipped)))  # from here on, the index is searchable by meaning
    words, wordless = _read_words(store, progress) if store.reads_words else (0, [])
    skipped += wordless
    moved_away = Counter(indexed[path].digest for path in changes.gone) & pending.moved
    skipped.sort(key=lambda error: str(error) in known)
    return UpdateReport(
        model=store.settings["model"],
        source=store.settings["source"],
        added=pending.added,
        moved=pending.moved.total(),
        deleted=len(changes.gone) - moved_away.total(),
        unchanged=changes.unchanged + pending.touched,
        rows=len(store),
        seconds=time.perf_counter() - started,
        skipped=tuple(skipped),
        known=sum(str(error) in known for error in skipped),
        left_out=changes.left_out,
        words=words,
        wordless=len(wordless),
    )


def _read_words(store: IndexWriter, progress: Track) -> tuple[int, list[InputError]]:
    """Read the words of all images and moments that have not been read; return their number, and what has failed.

    Equal lines of neighbouring moments are stored once. What fails counts as read, until the file changes; a file that
    has changed since it was encoded is left for the next update.
    """
    waiting: dict[str, list[Unread]] = {}  # by path
    for image in store.unread():
        waiting.setdefault(image.path, []).append(image)
    if not waiting:
        return 0, []
    if not can_read_words():
        logger.warning("the words in %d images are not read, because the extra `words` is missing", len(waiting))
        return 0, []
    items = {path: item for path, item in listed_items(store.root, store.excluded) if path in waiting}
    jobs = (
        (image, replace(item, start=image.time, end=image.time))
        for path, item in items.items()
        for image in waiting[path]
    )
    failures, read = list[InputError](), list[tuple[Unread, list[TextLine]]]()
    count, before, since, indexed = 0, ("", set[str]()), time.monotonic(), store.files()
    store.begin(complete=True)
    try:
        for image, found in progress(read_each(jobs), "reading words", sum(len(waiting[path]) for path in items)):
            if not is_unchanged(items[image.path], indexed[image.path]):
                continue
            lines = [] if isinstance(found, InputError) else found
            failures += [found] if isinstance(found, InputError) else []
            known = before[1] if before[0] == image.path else set[str]()
            before = image.path, {line.text for line in lines}
            read.append((image, [line for line in lines if line.text not in known]))
            count += 1
            if time.monotonic() - since > COMMIT_SECONDS / 2:
                store.write_words(read)
                read, since = [], time.monotonic()
    finally:
        if read:
            store.write_words(read)
    store.finish()
    return count, failures


class _Pending:
    """Results not committed yet, and counts of all.

    Attribute: `lost`, files to read again because an earlier commit removed their indexed content.
    """

    def __init__(self, store: IndexWriter, indexed: Mapping[str, str]) -> None:
        self._store, self._indexed = store, indexed  # digests by path
        self.added, self.touched, self.skipped, self.lost = 0, 0, list[InputError](), list[File]()
        self.moved: Counter[str] = Counter()  # by digest
        self._rows: list[IndexRow] = []
        self._moved: dict[str, list[File]] = {}  # by digest
        self._stale: set[str] = set()  # paths whose old rows go
        self._since, self._interval = time.monotonic(), FIRST_COMMIT_SECONDS

    def take(self, result: FileResult) -> None:
        """Add a result; commit when enough time has passed or enough rows are waiting."""
        if result.error is not None:
            self.skipped.append(result.error)
            if result.digest:  # its content has changed and cannot be shown
                self._stale.add(result.file.path)
        elif result.rows is None:
            self._moved.setdefault(result.digest, []).append(result.file)
        else:
            self.added += 1
            self._rows += map(dated, result.rows)
            self._stale.add(result.file.path)
        waiting = len(self._rows) + 8 * sum(map(len, self._moved.values()))
        if time.monotonic() - self._since > min(self._interval, COMMIT_SECONDS) or waiting > _COMMIT_ROWS:
            self._interval *= 2
            self.commit()

    def commit(self) -> None:
        """Commit everything, with copies of the rows of moved files."""
        rows_of: dict[str, list[IndexRow]] = {}
        for row in self._store.rows_with("digest", self._moved) if self._moved else []:
            rows = rows_of.setdefault(row.digest, [])
            if not rows or rows[0].path == row.path:  # of one name, if the content is indexed under several
                rows.append(row)
        for digest, files in self._moved.items():
            if digest in rows_of:
                moved = sum(self._indexed.get(file.path) != digest for file in files)
                self.moved[digest], self.touched = self.moved[digest] + moved, self.touched + len(files) - moved
                self._stale |= {file.path for file in files}
                self._rows += [_renamed(row, file) for row in rows_of[digest] for file in files]
            else:
                self.lost += files
        rows, stale = self._rows, self._stale & self._indexed.keys()
        self._rows, self._moved, self._stale, self._since = [], {}, set(), time.monotonic()
        self._store.replace(stale, rows)


def _renamed(row: IndexRow, file: File) -> IndexRow:
    identity = row_id(file.path, row.start)
    return dated(replace(row, id=identity, path=file.path, date=file.taken, size=file.size, modified=file.modified))
