"""Bring a directory's index up to date: encode new files, carry over moved ones, remove deleted ones.

Every core takes whole batches, from the file to its rows. Rows are committed from time to time, whole files at once,
so that a killed run continues where it stopped.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from perception_encoder.errors import InputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.pipeline import map_in_order, worker_count
from perception_encoder.models.registry import portable_name
from perception_encoder.search.storage.calibration import renew_calibration
from perception_encoder.search.storage.files import salvage_settings
from perception_encoder.search.storage.location import prepare_location
from perception_encoder.search.storage.moments import MomentConfig
from perception_encoder.search.storage.reader import File, FileResult, Reader, batches, find_changes, local_date, row_id
from perception_encoder.search.storage.rows import IndexRow, among
from perception_encoder.search.storage.store import STORE, Store

_COMMIT_SECONDS, _COMMIT_ROWS = 15.0, 4096  # the work that a kill may cost
_FIRST_COMMIT_SECONDS = 1.0  # doubled at each commit up to the above, so that a page soon has something to show


@dataclass(kw_only=True)
class Report:
    """What an update did, in files."""

    added: int = 0
    """Encoded: new, or with other content than before."""
    moved: int = 0
    """Indexed before under another name, with the same content."""
    gone: int = 0
    unchanged: int = 0
    rows: int = 0
    """In the index, after the update."""
    failures: list[InputError] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Files that are neither images nor videos, by type: RAW, SVG, other."""


@contextmanager
def writable_index(
    media: Path,
    source: str | None = None,
    every: float | None = None,
    rebuild: bool = False,
    directory: Path | None = None,
    default: Callable[[], str] = lambda: "builtin",
) -> Iterator[tuple[Store, Encoder]]:
    """Yield a directory's index, locked for writing, and its encoder; create the index if there is none.

    `source`: the model's name or path; by default the index's own model, or `default()` for a new index. `every`:
    seconds between the frames of a video. `rebuild` starts anew, with the old index's model and rate if its settings
    are readable. `directory`: where the index is stored, by default the directory itself. Raises OutputError,
    SearchIndexError (a damaged index, or one of another model, rate or directory), and what `load` raises.
    """
    root, directory = prepare_location(media, directory)
    with Store.for_writing(directory):
        index = None if rebuild or not Store.exists(directory) else Store.open(directory, whole=True)
        earlier = salvage_settings(directory / STORE) or {}
        if index is not None and source is not None:
            index.check_name(source)
        model = portable_name(source or earlier.get("source") or default())
        encoder = load(model)
        settings = encoder.describe(encoder.feature())
        if index is None:
            config = MomentConfig(every=every or earlier.get("moments", {}).get("every") or MomentConfig.every)
            elsewhere = {} if root == directory else {"root": str(root)}
            index = Store.create(directory, {**settings, **elsewhere, "source": model, "moments": asdict(config)})
        index.check(settings, source)
        if every not in (None, index.settings["moments"]["every"]):
            raise SearchIndexError(
                f"the index of {directory} has a frame every {index.settings['moments']['every']:g} s, not {every:g}; "
                f"make it anew with: pe index --rebuild --every {every:g} {shlex.quote(str(directory))}"
            )
        yield index, encoder


def read_here(index: Store, encoder: Encoder, digests: set[str], files: Sequence[File]) -> Iterator[list[FileResult]]:
    """Read files with the cores of this machine; yield a list of results a batch.

    `digests`: contents that the index has already.
    """
    reader = Reader(encoder, MomentConfig(**index.settings["moments"]), digests)
    return map_in_order(reader.read, batches(files, encoder.batch_size), worker_count(encoder))


def update_index(
    index: Store,
    encoder: Encoder,
    begin: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
    read: Callable[[Store, Encoder, set[str], Sequence[File]], Iterable[list[FileResult]]] = read_here,
) -> Report:
    """Make an index match its directory; bad files are reported and never stop it.

    `index` and `encoder` come from `writable_index`. `begin` gets the number of files to read and returns a function
    that gets the numbers of files done. `read` reads the files: `read_here`, or `on_cluster`'s. Raises OutputError if
    the index cannot be written, and what `read` raises; committed rows stay.
    """
    indexed = index.files()
    changes = find_changes(index.root, indexed)
    report = Report(gone=len(changes.gone), unchanged=changes.unchanged, failures=list(changes.failures))
    report.left_out = changes.left_out
    digests = {state.digest for state in indexed.values()}
    if changes.candidates or changes.gone:
        index.begin()
    pending = _Pending(index, set(indexed), report)
    advance = begin(len(changes.candidates))
    files = changes.candidates
    try:
        while files:
            for results in read(index, encoder, digests, files):
                pending.take(results)
                advance(len(results))
            files, digests = pending.commit(), set()
    finally:
        pending.commit()
    index.remove(changes.gone)
    index.finish()
    renew_calibration(index, encoder)
    report.rows = len(index)
    return report


class _Pending:
    """Results that are not committed yet."""

    def __init__(self, index: Store, indexed: set[str], report: Report) -> None:
        self._index, self._indexed, self._report = index, indexed, report
        self._rows: list[IndexRow] = []
        self._moved: dict[str, list[File]] = {}  # by digest
        self._stale: set[str] = set()  # paths whose old rows go
        self._lost: list[File] = []
        self._since, self._interval = time.monotonic(), _FIRST_COMMIT_SECONDS

    def take(self, results: Sequence[FileResult]) -> None:
        """Add results; commit if enough time has passed or enough rows wait."""
        for result in results:
            if result.error is not None:
                self._report.failures.append(result.error)
                if result.digest:  # its content has changed and cannot be shown
                    self._stale.add(result.file.path)
            elif result.rows is None:
                self._moved.setdefault(result.digest, []).append(result.file)
            else:
                self._report.added += 1
                self._rows += result.rows
                self._stale.add(result.file.path)
        waiting = len(self._rows) + 8 * sum(map(len, self._moved.values()))
        if time.monotonic() - self._since > min(self._interval, _COMMIT_SECONDS) or waiting > _COMMIT_ROWS:
            self._interval *= 2
            self._commit()

    def commit(self) -> list[File]:
        """Commit everything; return files whose content the index had and lost to an earlier commit."""
        self._commit()
        lost, self._lost = self._lost, []
        return lost

    def _commit(self) -> None:
        if self._moved:
            self._carry_over()
        rows, stale = self._rows, self._stale & self._indexed
        self._rows, self._moved, self._stale, self._since = [], {}, set(), time.monotonic()
        self._index.replace(stale, rows)

    def _carry_over(self) -> None:
        """Copy the rows of moved contents to the files' new paths."""
        carried = self._index.rows(among("digest", self._moved), thumbnails=True)
        first: dict[str, str] = {}
        for row in carried:  # of a content that the index has under several names, one name's rows
            first.setdefault(row.digest, row.path)
        originals = [row for row in carried if first[row.digest] == row.path]
        self._rows += [_renamed(row, file) for row in originals for file in self._moved[row.digest]]
        for digest, files in self._moved.items():
            if digest in first:
                self._report.moved += len(files)
                self._stale |= {file.path for file in files}
            else:
                self._lost += files


def _renamed(row: IndexRow, file: File) -> IndexRow:
    date = row.date if row.date != local_date(row.modified) else local_date(file.modified)  # the camera's stays
    identity = row_id(file.path, row.start)
    return replace(row, id=identity, path=file.path, date=date, size=file.size, modified=file.modified)
