"""The database of an annotation project: one SQLite file with a write-ahead log, synced at every commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception_encoder.errors import DataError, OutputError, one_line
from perception_encoder.files import refuse_database_links, writing

VERSION = 1
_BUSY_SECONDS = 10.0

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value REAL NOT NULL) STRICT;
CREATE TABLE tars (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, split TEXT NOT NULL, size INTEGER NOT NULL,
    modified INTEGER NOT NULL
) STRICT;
CREATE TABLE clips (
    id INTEGER PRIMARY KEY, tar INTEGER NOT NULL REFERENCES tars, key TEXT NOT NULL, extension TEXT NOT NULL,
    offset INTEGER NOT NULL, size INTEGER NOT NULL, caption TEXT NOT NULL, category TEXT NOT NULL,
    rate REAL, needed INTEGER NOT NULL DEFAULT 1, UNIQUE (tar, key)
) STRICT;
CREATE TABLE people (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE annotations (
    id INTEGER PRIMARY KEY, clip INTEGER NOT NULL REFERENCES clips, person TEXT NOT NULL REFERENCES people,
    state TEXT NOT NULL CHECK (state IN ('draft', 'done', 'skipped')), caption TEXT NOT NULL,
    rating INTEGER CHECK (rating BETWEEN 1 AND 5), reason TEXT NOT NULL DEFAULT '', note TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0, opened REAL NOT NULL, updated REAL NOT NULL,
    session TEXT NOT NULL DEFAULT '', sequence INTEGER NOT NULL DEFAULT 0, UNIQUE (clip, person)
) STRICT;
CREATE INDEX annotations_of_person ON annotations (person, state);
CREATE TABLE reviews (
    annotation INTEGER PRIMARY KEY REFERENCES annotations, person TEXT NOT NULL REFERENCES people,
    state TEXT NOT NULL CHECK (state IN ('draft', 'done')), caption TEXT NOT NULL,
    seconds REAL NOT NULL DEFAULT 0, opened REAL NOT NULL, updated REAL NOT NULL,
    session TEXT NOT NULL DEFAULT '', sequence INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY, person TEXT NOT NULL REFERENCES people, annotation INTEGER NOT NULL REFERENCES annotations,
    action TEXT NOT NULL CHECK (action IN ('submit', 'skip', 'approve', 'return')), time REAL NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX decisions_of_person ON decisions (person, undone);
"""
"""`clips.caption` is the model's and never changes. `session` and `sequence` identify the tab and its last autosave."""

_NOT_DAMAGE = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN")
"""Errors of the disk, of permissions or of other processes."""


def fits(number: int) -> bool:
    """Return whether an integer fits into 64 bits, as the database requires of ids."""
    return -(2**63) <= number < 2**63


class Database:
    """A connection that threads share: one transaction at a time; writers wait for other processes."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; DataError for another kind or version, OutputError if it cannot be created."""
        self.path = path
        self._lock = threading.RLock()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            refuse_database_links(path)
        with self._readable():
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
        self._prepare()

    def close(self) -> None:
        """Close the connection, merging the log into the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for changes that reach the disk together when the block ends, or not at all."""
        with self._lock, self._readable():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for reading; all queries in the block see the same state."""
        with self._lock, self._readable():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    def damage(self, what: str) -> DataError:
        """Return the error of a damaged file."""
        remedy = "restore a copy, or save what is readable: sqlite3 FILE .recover"
        return DataError(f"{self.path} is damaged ({what}); {remedy}")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn SQLite's errors into one line that names the file; an IntegrityError is our own bug."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")  # the module's own errors have none
            if name == "SQLITE_NOTADB":
                raise DataError(f"{self.path} is not an annotation project; choose another file") from error
            if name.startswith(_NOT_DAMAGE):
                raise OutputError(f"{self.path} could not be written: {one_line(error)}") from error
            raise self.damage(one_line(error)) from error
        except UnicodeDecodeError as error:  # of a text, or of SQLite's message
            raise self.damage("a text is not UTF-8") from error

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
            else:  # damage of the tables' definitions, of pages, of values of the wrong type, and of references
                stored = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master")}
                if not stored.issuperset(SCHEMA.strip().removesuffix(";").split(";\n")):
                    raise self.damage("a definition of a table")
                (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if state != "ok":
                    raise self.damage(" ".join(str(state).split())[:100])
                if connection.execute("PRAGMA foreign_key_check").fetchone():
                    raise self.damage("a row refers to one that is missing")
