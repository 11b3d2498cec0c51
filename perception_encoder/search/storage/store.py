"""The stored index of a directory: a LanceDB table with a row for each image and each moment of a video.

Each write commits whole files: a killed run loses only uncommitted work and duplicates nothing, and concurrent readers
see the last commit. Only one process writes at a time.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError, one_line
from perception_encoder.files import holding, is_held, remove, restrict, write_json, writing
from perception_encoder.formats.tables import connect_lance, without_panics
from perception_encoder.inference.exclude import parse_patterns
from perception_encoder.models.registry import same_name, shown_name
from perception_encoder.preprocess.source import escape_name
from perception_encoder.records import from_fields
from perception_encoder.search.storage.files import (
    LAYOUT,
    SEAL,
    SETTINGS,
    TABLE,
    SealedFiles,
    manifests_of,
    read_settings,
    salvage_settings,
)
from perception_encoder.search.storage.rows import (
    FileState,
    IndexRow,
    among,
    check_condition,
    column_names,
    schema_of,
    to_rows,
)
from perception_encoder.search.storage.snapshot import CODES, ROWS, VECTORS, Snapshot

if TYPE_CHECKING:
    from lancedb.table import Table

    from perception_encoder.inference.encoder import Encoder

logger = logging.getLogger(__name__)

STORE, EXCLUDED, UNREADABLE = ".pe-index", "exclude.json", "unreadable.json"
"""Names of an index's directory, inside the indexed one, and of files in it: the patterns of excluded files, and why
files were skipped."""
_LOCK = "lock"
_COMPACT_AFTER = 32  # commits
_KEEP_VERSIONS = timedelta(days=1)  # for readers at work
_NEWEST_FIRST = [("date", "descending"), ("path", "ascending"), ("start", "ascending")]
_CONDITION_PATHS = 500  # in one condition
_INDEXED_ROWS = 2000  # from here on, an index of the ids is faster than a scan
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pa.ArrowException)
"""Exceptions of the supported versions of LanceDB and pyarrow for damaged files."""
SAME = ("model", "weight_hash", "layer", "pool", "dimension", "prompts")  # equal if vectors are comparable


def cut_as(encoder: Encoder, settings: Mapping[str, Any]) -> Encoder:
    """Return an encoder with vectors cut as those with `settings` (`Encoder.describe`) are, if its own are longer."""
    dimensions = settings.get("dimensions")
    return encoder.cut(dimensions) if dimensions and dimensions < encoder.dimension else encoder


class Store:
    """An open index. `settings`: those of `Encoder.describe`, with the layout."""

    below = ""
    """Path prefix of the visible rows: those of a subdirectory."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], whole: bool = False) -> None:
        self.directory, self.settings = directory, dict(settings)
        self._files = SealedFiles(directory, directory / STORE, self.root, whole)
        self._snapshot = self._files.read_snapshot(self.settings["dimension"], whole)
        self._before: Snapshot | None = None
        """The snapshot of an earlier commit, for the next one."""
        self._commits = 0

    @classmethod
    def open(cls, directory: Path, whole: bool = False) -> Store:
        """Open the index of a directory; SearchIndexError if it is missing, damaged or of another layout.

        `whole`: check all files for damage, not only those whose size or time changed.
        """
        if not Store.exists(directory):
            raise SearchIndexError(f"{directory} has no index; create one with: pe index {directory}")
        with _sound(directory):
            settings = read_settings(directory / STORE)
            if settings.get("layout") != LAYOUT:
                raise ValueError("it is of another version")
            index = cls(directory, settings, whole)
        if index._snapshot is None:
            len(index.table)
        return index

    @cached_property
    def table(self) -> Table:
        """All rows, as a LanceDB table; SearchIndexError if they are damaged."""
        with _sound(self.directory):
            table = connect_lance(self.directory / STORE).open_table(TABLE)
            if table.schema != schema_of(self.settings["dimension"]):
                raise ValueError("it has other columns")
            table.count_rows()
            return table

    @classmethod
    def create(cls, directory: Path, settings: Mapping[str, Any]) -> Store:
        """Create an empty index, replacing an existing one; OutputError if the directory cannot be written."""
        store = directory / STORE
        with writing(store, also=(RuntimeError,)):
            store.mkdir(exist_ok=True)
            remove(store / SETTINGS)  # first: a table without settings is ignored
            settings = {**settings, "layout": LAYOUT}
            for name in (SEAL, ROWS, VECTORS, CODES, UNREADABLE, f"{TABLE}.lance"):
                remove(store / name)
            connect_lance(store).create_table(TABLE, schema=schema_of(int(settings["dimension"])))
            write_json(store / SETTINGS, settings)
        index = cls(directory, settings)
        index._files.seal(index.table.version)
        return index

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether a directory has an index that this user may see, damaged or not."""
        return os.path.isfile(directory / STORE / SETTINGS)

    @staticmethod
    @contextmanager
    def for_writing(directory: Path) -> Iterator[None]:
        """Lock the index for this process; OutputError if another process is writing it, or it is a link or a file."""
        store = directory / STORE
        if store.is_symlink():
            raise OutputError(f"{store} is a link; remove it, an index must be a directory")
        with writing(store):
            store.mkdir(exist_ok=True)
            restrict(store, directory)
        with holding(store / _LOCK, f"another run is writing the index of {directory}"):
            yield

    @property
    def root(self) -> Path:
        """The indexed directory: the index's own unless the index is stored elsewhere (`--index`)."""
        return Path(self.settings.get("root") or self.directory)

    @property
    def excluded(self) -> list[str]:
        """The patterns of `exclude`, which every update follows; SearchIndexError if they cannot be read."""
        path = self.directory / STORE / EXCLUDED
        try:
            patterns = from_fields(list[str], json.loads(path.read_text(encoding="utf-8")))
            parse_patterns(patterns)
            return patterns
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError, ConfigError) as error:
            raise SearchIndexError(
                f"{path} cannot be read: {one_line(error)}; replace it with: "
                + index_command(self.directory, "--exclude", "PATTERN")
            ) from None

    def exclude(self, patterns: Sequence[str]) -> None:
        """Set the patterns of files to leave out, which are valid; the next update removes their rows. OutputError."""
        write_json(self.directory / STORE / EXCLUDED, list(patterns))
        self._files.restrict()

    @property
    def unreadable(self) -> list[str]:
        """Why the last update skipped files, one line for each; none if that is unknown."""
        try:
            return from_fields(list[str], json.loads((self.directory / STORE / UNREADABLE).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return []

    @unreadable.setter
    def unreadable(self, reasons: list[str]) -> None:
        if reasons != self.unreadable:
            write_json(self.directory / STORE / UNREADABLE, reasons)
            self._files.restrict()

    def check(self, settings: Mapping[str, object], model: str) -> None:
        """Raise SearchIndexError if vectors with `settings` (`Encoder.describe`) cannot be compared with the index's.

        `model`: the name or path of their model, for the command that rebuilds the index with it.
        """
        different = [name for name in SAME if name in settings and not self._has(name, settings[name])]
        if "model" in different:  # the rest follows
            different = ["model"]
        if different:
            changes = ", ".join(f"{name} {self.settings.get(name)}, not {settings[name]}" for name in different)
            shorter = ["--dimensions", str(settings["dimensions"])] if settings.get("dimensions") else []
            command = index_command(self.directory, "--rebuild", "--model", model, *shorter)
            raise SearchIndexError(
                f"the index of {self.directory} was made with {changes}; use that model, or rebuild it with: {command}"
            )

    def _has(self, name: str, value: object) -> bool:
        return same_name(str(self.settings[name]), str(value)) if name == "model" else self.settings.get(name) == value

    def check_name(self, model: str) -> None:
        """Raise SearchIndexError if a model's name alone differs from the index's, before any download."""
        if (name := shown_name(model)) is not None:
            self.check({"model": name}, model)

    def refresh(self) -> int:
        """Read new commits; return the number of the last one. SearchIndexError if the index was rebuilt."""
        with _sound(self.directory):
            if read_settings(self.directory / STORE) != self.settings or not self._files.same:
                raise SearchIndexError(f"the index of {self.directory} has been rebuilt; open it again")
            self.table.checkout_latest()
            if self._files.refresh():
                self._snapshot = self._files.read_snapshot(self.settings["dimension"])
            return self.table.version

    @property
    def unfinished(self) -> bool:
        """Whether an update was stopped or is running, so that files may be missing."""
        return not self._files.state.complete

    @property
    def being_written(self) -> bool:
        """Whether a process is writing the index now."""
        return is_held(self.directory / STORE / _LOCK)

    def begin(self) -> None:
        """Mark the index as unfinished until `finish`."""
        self._files.reopen()

    def __len__(self) -> int:
        if self.below:
            return self._run(self.table.search().limit(None), None, ["id"]).num_rows
        snapshot = self._snapshot  # once: `refresh` may replace it in another thread
        if snapshot is not None:
            return len(snapshot)
        with _sound(self.directory):
            return self.table.count_rows()

    def count(self, where: str | None = None) -> int:
        """Return how many rows match a condition in SQL; ConfigError if it is invalid."""
        return len(self) if where is None else self._run(self.table.search().limit(None), where, ["id"]).num_rows

    def files(self) -> dict[str, FileState]:
        """Return the state of each indexed file, by path."""
        rows = self._all(None, ["path", "size", "modified", "digest"]).to_pylist()
        return {row.pop("path"): FileState(**row) for row in rows}

    def replace(self, paths: Collection[str], rows: Sequence[IndexRow]) -> None:
        """Replace all rows of some paths in one commit; OutputError if it cannot be written."""
        if not rows:
            self.remove(list(paths))
            return
        columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(IndexRow)}
        vectors = np.stack(columns.pop("vector")).astype(np.float32)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        with self._changing():
            table = pa.table(columns, schema=schema_of(vectors.shape[1]))
            if paths:
                merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(among("path", paths)).execute(table)
            else:
                self.table.add(table)
        self._commits += 1
        if self._commits % _COMPACT_AFTER == 0:
            self.optimize()

    def remove(self, paths: Sequence[str]) -> None:
        """Commit the removal of files, if there are any."""
        if paths:
            with self._changing():
                for start in range(0, len(paths), _CONDITION_PATHS):
                    self.table.delete(among("path", paths[start : start + _CONDITION_PATHS]))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._snapshot, self._before = None, self._snapshot or self._before
        with self._files.changing():
            yield
        self._files.seal(self.table.version)

    def _run(self, query: Any, where: str | None, names: Sequence[str]) -> pa.Table:
        if where:
            check_condition(where)
        condition = self._within(where)
        with _sound(self.directory):
            try:
                rows = (query.where(condition) if condition else query).select(names).to_arrow()
            except (ValueError, RuntimeError) as error:
                if not where:
                    raise
                raise ConfigError(f"the condition {where!r} is invalid: {one_line(error)}") from None
            if "vector" in names and rows["vector"].null_count:
                raise ValueError("rows have no vectors")
            rows.validate(full=True)  # checks UTF-8, which LanceDB 0.25 does not
            return rows

    def _all(self, where: str | None, names: Sequence[str]) -> pa.Table:
        """Return some columns, newest rows first."""
        snapshot = self._snapshot
        if snapshot is not None and self._within(where) is None and "thumbnail" not in names:
            return snapshot.select(names)
        rows = self._run(self.table.search().limit(None), where, list({*names, *(n for n, _ in _NEWEST_FIRST)}))
        return rows.sort_by(_NEWEST_FIRST).select(names)

    def _within(self, where: str | None) -> str | None:
        """Add the subdirectory's condition to one in parentheses: else LanceDB ignores what follows an expression."""
        parts = [f"({where}\n)"] if where else []  # which may end in a comment
        parts += ["starts_with(path, '{}')".format(self.below.replace("'", "''"))] if self.below else []
        return " AND ".join(parts) or None

    def rows(self, where: str | None = None, thumbnails: bool = False) -> list[IndexRow]:
        """Return all rows that match a condition in SQL, newest first; ConfigError if the condition is invalid."""
        return to_rows(self._all(where, column_names(thumbnails)))

    def listing(self, where: str | None = None) -> pa.Table:
        """Return all rows that match a condition, without vectors and thumbnails, newest first."""
        return self._all(where, [name for name in column_names(thumbnails=False) if name != "vector"])

    def row(self, row_id: str) -> IndexRow:
        """Return the row of an id with its thumbnail; SearchIndexError if there is none."""
        rows = self.rows(among("id", [row_id]), thumbnails=True)
        if not rows:
            raise SearchIndexError(f"the index of {self.directory} has no item {row_id}; `pe search` prints ids")
        return rows[0]

    def nearest(
        self, vector: Float[np.ndarray, " D"], top: int, where: str | None = None, thumbnails: bool = False
    ) -> list[tuple[float, IndexRow]]:
        """Return the `top` rows most similar to a unit vector with their cosine similarities, best first.

        `where`: a condition in SQL on the columns (the fields of `IndexRow`); ConfigError if it is invalid.
        """
        snapshot, allowed, condition = self._snapshot, None, self._within(where)
        if snapshot is not None and condition is not None:
            allowed = snapshot.matching(condition, partial(self._find_in, snapshot.head, where))
        if snapshot is None or (condition is not None and allowed is None):
            query: Any = self.table.search(vector, vector_column_name="vector")
            rows = self._run(query.distance_type("cosine").limit(top), where, [*column_names(thumbnails), "_distance"])
            return [(1 - far, row) for far, row in zip(rows["_distance"].to_pylist(), to_rows(rows), strict=True)]
        scores, rows = snapshot.nearest(vector, top, allowed)
        found = to_rows(rows)
        if thumbnails and found:
            query = self.table.search().limit(len(found))
            stored = self._run(query, among("id", [row.id for row in found]), ["id", "thumbnail"])
            images = dict(zip(stored["id"].to_pylist(), stored["thumbnail"].to_pylist(), strict=True))
            found = [replace(row, thumbnail=images.get(row.id, b"")) for row in found]
        return list(zip(scores, found, strict=True))

    def optimize(self) -> None:
        """Compact small commits; failures are only logged."""
        self._files.reopen()  # sealed files may be cleaned up
        try:
            with without_panics():
                self.table.optimize(cleanup_older_than=_KEEP_VERSIONS)
                ids = any(index.columns == ["id"] for index in self.table.list_indices())
                if len(self) >= _INDEXED_ROWS and not ids:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        self.table.create_scalar_index("id")
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("the index of %s could not be compacted: %s", escape_name(self.directory), one_line(error))
        self._files.seal(self.table.version)

    def finish(self) -> None:
        """Compact, renew an outdated or damaged snapshot, and seal the index as finished, unless that is done."""
        sealed = self._files.state
        if sealed.complete and (self._snapshot is not None or sealed.snapshot is None):
            self._files.restrict()
            return
        self.optimize()
        dimension, files = self.settings["dimension"], None
        self._snapshot = self._files.read_snapshot(dimension)
        if self._snapshot is None:
            names = [name for name in column_names(thumbnails=False) if name != "vector"]
            rows = self._run(self._numbered(), None, names)
            files = self._files.write_snapshot(rows.sort_by(_NEWEST_FIRST), dimension, self._before, self._vectors)
        self._files.seal(self.table.version, complete=True, snapshot=files)
        self._snapshot, self._before = self._files.read_snapshot(dimension), None

    def _find_in(self, head: str, where: str | None) -> pa.Table | None:
        """Return the numbers of the rows that match a condition; None if the table has another commit than `head`."""
        version = self.table.version
        rows = self._run(self._numbered(), where, ["id"])
        return rows if version == self.table.version and head in manifests_of(version) else None

    def _numbered(self) -> Any:
        """Return a query for all rows with a column `ROW_ID`, which must not be selected: LanceDB 0.22 panics."""
        return self.table.search().limit(None).with_row_id(True)

    def _vectors(self, where: str | None) -> Iterator[pa.RecordBatch]:
        query = self._numbered().where(where) if where else self._numbered()
        yield from query.select(["id", "vector"]).to_batches()


@contextmanager
def _sound(directory: Path) -> Iterator[None]:
    """Turn errors from reading an index into a SearchIndexError with the remedy."""
    try:
        with without_panics():
            yield
    except _DAMAGE as error:
        raise SearchIndexError(
            f"the index of {directory} cannot be read ({one_line(error)}); if this persists, "
            f"rebuild it with: {index_command(directory, '--rebuild')}"
        ) from error


def index_command(directory: Path, *options: str) -> str:
    """Return the command that updates or rebuilds an index, with placeholders for unreadable settings."""
    settings, home = salvage_settings(directory / STORE), str(directory)
    if settings is None:
        return shlex.join(["pe", "index", *options, "--index", home, "--model", "MODEL", "DIR"])
    arguments = [settings["root"], "--index", home] if "root" in settings else [home]
    return shlex.join(["pe", "index", *options, *arguments])
