"""The database of an annotation project: one SQLite file with a write-ahead log, synced at every commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception_encoder.errors import DataError, OutputError, one_line

VERSION = 1
_BUSY_SECONDS = 10.0

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tars (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, split TEXT NOT NULL, size INTEGER NOT NULL,
    modified INTEGER NOT NULL
);
CREATE TABLE clips (
    id INTEGER PRIMARY KEY, tar INTEGER NOT NULL REFERENCES tars, key TEXT NOT NULL, extension TEXT NOT NULL,
    offset INTEGER NOT NULL, size INTEGER NOT NULL, caption TEXT NOT NULL, category TEXT NOT NULL,
    duration REAL, rate REAL, needed INTEGER NOT NULL DEFAULT 1, UNIQUE (tar, key)
);
CREATE TABLE people (name TEXT PRIMARY KEY, origin TEXT NOT NULL CHECK (origin IN ('human', 'simulated')));
CREATE TABLE assignments (
    clip INTEGER NOT NULL REFERENCES clips, person TEXT NOT NULL REFERENCES people, PRIMARY KEY (person, clip)
);
CREATE INDEX assignments_of_clip ON assignments (clip);
CREATE TABLE annotations (
    id INTEGER PRIMARY KEY, clip INTEGER NOT NULL REFERENCES clips, person TEXT NOT NULL REFERENCES people,
    state TEXT NOT NULL CHECK (state IN ('draft', 'done', 'skipped')), caption TEXT NOT NULL,
    rating INTEGER CHECK (rating BETWEEN 1 AND 5), reason TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0, opened REAL NOT NULL, updated REAL NOT NULL,
    session TEXT NOT NULL DEFAULT '', sequence INTEGER NOT NULL DEFAULT 0, UNIQUE (clip, person)
);
CREATE INDEX annotations_of_person ON annotations (person, state);
CREATE TABLE reviews (
    annotation INTEGER PRIMARY KEY REFERENCES annotations, person TEXT NOT NULL REFERENCES people,
    state TEXT NOT NULL CHECK (state IN ('draft', 'done')), caption TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0, opened REAL NOT NULL, updated REAL NOT NULL,
    session TEXT NOT NULL DEFAULT '', sequence INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, person TEXT NOT NULL REFERENCES people, annotation INTEGER NOT NULL REFERENCES annotations,
    action TEXT NOT NULL CHECK (action IN ('submit', 'skip', 'approve', 'return')), time REAL NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX decisions_of_person ON decisions (person, undone);
"""
"""`clips.caption` is the model's and never changes. `session` and `sequence` tell the tab and its last autosave."""


class Database:
    """A connection that threads share; each transaction holds it alone, and writers wait for other processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, which is made if it is missing. Raises DataError if it is another file, or of another version,
        and OutputError if it cannot be made."""
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._prepare()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(f"{path} could not be opened: {one_line(error)}") from error
            raise DataError(f"{path} is not an annotation project: {one_line(error)}; choose another file") from error
        except OSError as error:
            raise OutputError(f"{path} could not be made: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connection; the log is merged into the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for changes that are all on the disk when the block ends, or not made at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for reading; all queries of the block see one state."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    def _prepare(self) -> None:
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version == 0 and not tables:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION or not tables:
                raise DataError(f"{self.path} is not an annotation project of version {VERSION}; choose another file")
