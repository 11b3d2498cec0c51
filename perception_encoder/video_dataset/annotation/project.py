"""An annotation project: a dataset's videos, which stay in their tars, and the people who refine their captions.

Its database is one SQLite file with a write-ahead log, synced at every commit.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import list_video_tars, read_video_tar, split_of
from perception_encoder.errors import ConfigError, DataError, InputError, OutputError, one_line
from perception_encoder.files import defines_only, open_database, writing
from perception_encoder.formats.tars import TarMember
from perception_encoder.progress import Track, untracked

VERSION = 1
BUSY_SECONDS = 10.0

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
            with self._readable():
                self._connection = open_database(
                    path, timeout=BUSY_SECONDS, check_same_thread=False, cached_statements=256
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
                if not defines_only(connection, SCHEMA.split(";\n"), also="lost_and_found*"):  # of `.recover`
                    raise self.damage("a definition of a table")
                (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if state != "ok":
                    raise self.damage(" ".join(str(state).split())[:100])
                if connection.execute("PRAGMA foreign_key_check").fetchone():
                    raise self.damage("a row refers to one that is missing")


FILE_NAME = "annotations.sqlite"
LONGEST_NAME = 40
DOUBLE = 0.1
"""Default share of videos that two people annotate."""


@dataclass(frozen=True, kw_only=True)
class ProjectClip:
    """A video of a project."""

    id: int
    key: str
    split: str
    original: str
    """The model's caption."""
    category: str
    rate: float | None
    """Frames per second, if the dataset states it."""


class AnnotationProject(Database):
    """A dataset and the database of its annotations."""

    def __init__(self, data: Path, file: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """`data`: a tar or a directory of tars; `file`: the database, by default in that directory."""
        self.data, self.now = data, now
        directory = data if data.is_dir() else data.parent
        self.tars = {tar.relative_to(directory).as_posix(): tar for tar in list_video_tars(data)}
        super().__init__(file or directory / FILE_NAME)

    def update(self, track: Track = untracked) -> int:
        """Read new and changed tars; return the number of videos.

        A missing video is no longer offered; its annotations are kept, and move to a video of the same key and caption
        in another tar.
        """
        with self.transaction() as connection:
            known = {row["path"]: row for row in connection.execute("SELECT * FROM tars")}
            statuses = {name: tar.stat() for name, tar in self.tars.items()}
            stamps = {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}
            changed = [
                name
                for name, stamp in stamps.items()
                if name not in known or (known[name]["size"], known[name]["modified"]) != stamp
            ]
            for name in track(changed, "reading the dataset", len(changed)):
                _read_tar(connection, name, self.tars[name], *stamps[name])
            gone = [(known[name]["id"],) for name in known.keys() - self.tars.keys()]
            connection.executemany("UPDATE clips SET size = 0 WHERE tar = ?", gone)
            connection.executemany("UPDATE tars SET size = -1 WHERE id = ?", gone)
            if changed:
                _follow_moved(connection)
                setting = connection.execute("SELECT value FROM settings WHERE name = 'double'").fetchone()
                _choose_doubles(connection, DOUBLE if setting is None else setting["value"])
        return self.count()

    def count(self) -> int:
        """Return the number of videos."""
        with self.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM clips WHERE size > 0").fetchone()[0])

    def set_double(self, share: float) -> None:
        """Set the share of videos that two people annotate; a larger share includes those of a smaller one."""
        if not 0 <= share <= 1:
            raise ConfigError(f"the share of double annotations is {share:g}; it must be from 0 to 1")
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO settings VALUES ('double', ?)", (share,))
            _choose_doubles(connection, share)

    def video(self, clip: int) -> tuple[TarMember, str]:
        """Return the location and the extension of a video; InputError if it no longer exists.

        Only members of the tars that were listed when the project was opened are returned.
        """
        query = "SELECT clips.*, tars.path FROM clips JOIN tars ON tars.id = clips.tar WHERE clips.id = ?"
        with self.reading() as connection:
            row: Any = connection.execute(query, (clip,)).fetchone() if fits(clip) else None
        tar = self.tars.get(row["path"]) if row is not None and row["size"] > 0 else None
        if tar is None:
            raise InputError(f"video {clip}", "does not exist, or its tar was removed")
        return TarMember(tar, row["offset"], row["size"]), row["extension"]


def check_person_name(name: str) -> str:
    """Return a person's name without surrounding spaces; ConfigError unless it has 1 to 40 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"the name is {name[:60]!r}; it must have 1 to {LONGEST_NAME} printable characters")
    return name


def add_person(connection: sqlite3.Connection, name: str) -> str:
    """Add a person who is not there yet; return the checked name."""
    name = check_person_name(name)
    connection.execute("INSERT OR IGNORE INTO people VALUES (?)", (name,))
    return name


def _read_tar(connection: sqlite3.Connection, name: str, tar: Path, size: int, modified: int) -> None:
    """Add a tar's videos; for known ones, update only the location of their bytes and their frame rate."""
    (tar_id,) = connection.execute(
        "INSERT INTO tars (path, split, size, modified) VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
        "size = excluded.size, modified = excluded.modified RETURNING id",
        (name, split_of(tar), size, modified),
    ).fetchone()
    connection.execute("UPDATE clips SET size = 0 WHERE tar = ?", (tar_id,))
    rows = []
    for record in read_video_tar(tar):
        video = (record.extension, record.video.offset, record.video.size)
        rows.append((tar_id, record.key, *video, record.model_caption, record.category, record.frame_rate))
    if len({key for _, key, *_ in rows}) < len(rows):
        raise DataError(f"{tar}: two videos have the same key")
    connection.executemany(
        "INSERT INTO clips (tar, key, extension, offset, size, caption, category, rate) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tar, key) DO UPDATE SET extension = excluded.extension, "
        "offset = excluded.offset, size = excluded.size, rate = excluded.rate",
        rows,
    )


def _follow_moved(connection: sqlite3.Connection) -> None:
    """Move the annotations of missing videos to unstarted videos with the same key and caption."""
    moved = connection.execute(
        "SELECT new.id, old.id FROM clips AS old JOIN clips AS new ON new.key = old.key AND new.caption = old.caption "
        "WHERE old.size = 0 AND new.size > 0 AND NOT EXISTS (SELECT 1 FROM annotations WHERE clip = new.id) "
        "GROUP BY new.id"
    ).fetchall()
    connection.executemany("UPDATE OR IGNORE annotations SET clip = ? WHERE clip = ?", map(tuple, moved))


def _choose_doubles(connection: sqlite3.Connection, share: float) -> None:
    """Choose the videos for double annotation by a hash of their keys alone."""
    connection.create_function("fraction", 1, _fraction, deterministic=True)
    query = "UPDATE clips SET needed = 1 + (fraction(key) < :share) WHERE needed != 1 + (fraction(key) < :share)"
    connection.execute(query, {"share": share})


def _fraction(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:8], "big") / 2**64
