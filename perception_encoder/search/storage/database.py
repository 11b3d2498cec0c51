"""The database of an index: its tables, values of checked types, conditions in SQL, connections that run nothing of it.

A row's `slot` is the number of its vector in the file of vectors. Its `checksum` is of its values and its vector, so
that a search notices damage in what it returns.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from perception_encoder.errors import ConfigError, InputError, SearchIndexError, one_line
from perception_encoder.files import defines_only, is_held, open_database, open_regular
from perception_encoder.formats.listing import Item
from perception_encoder.models.registry import same_name
from perception_encoder.preprocess.source import MEDIA_SUFFIXES, unescape_name
from perception_encoder.records import Count, CountOrZero, Positive, Range, from_fields, parse_json
from perception_encoder.search.storage import words
from perception_encoder.search.storage.vectors import Vectors
from perception_encoder.vectors import are_unit

T = TypeVar("T")

DATABASE, LOCK = "index.sqlite", "lock"
_LATEST = (1 << 63) - 1
_PAGE_BYTES = 16_384  # holds a thumbnail
_PATIENCE = 60.0  # seconds that a writer waits for a reader
DOCUMENTED = ("path", "kind", "date", "size", "length", "width", "height", "lat", "lon", "camera")
_FUNCTIONS = (
    {"abs", "coalesce", "ifnull", "max", "min", "nullif", "round", "typeof"}
    | {"date", "datetime", "julianday", "strftime", "time"}
    | {"glob", "instr", "length", "like", "lower", "ltrim", "rtrim", "substr", "substring", "trim", "upper"}
)
SCAN_SECONDS, SCAN_STEPS = 30.0, 10_000  # of the scan; virtual machine instructions between looks at the clock
_STRING = r"(?:'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"  # SQLite takes a text in double quotes too
_COLUMN = r'(?:\brows\s*\.\s*)?(?:\bdate\b|"date"|`date`|\[date\])(?!\s*\()'
_OPERATOR = r"(?:[<>=!]+|\bis\b(?:\s+not\b)?(?:\s+distinct\s+from\b)?)"
_DATE_COMPARISON = re.compile(
    rf"(?P<left>{_COLUMN})\s*(?P<operator>{_OPERATOR})\s*(?P<value>{_STRING})"
    rf"|(?P<first>{_STRING})\s*(?P<flipped>{_OPERATOR})\s*(?P<right>{_COLUMN})"
    rf"|(?P<column>{_COLUMN})\s+(?P<negated>not\s+)?"
    rf"(?:between\s+(?P<low>{_STRING})\s+and\s+(?P<high>{_STRING})|in\s*\(\s*(?P<list>{_STRING}(?:\s*,\s*{_STRING})*)\s*\))"
    rf"|{_STRING}",  # any other text is skipped
    re.IGNORECASE,
)
_NUMBER = r"\d*\.?\d+"
_NEAR = re.compile(rf"{_STRING}|\bnear\s+([-+]?{_NUMBER})\s*,\s*([-+]?{_NUMBER})\s+({_NUMBER})\s*km\b", re.IGNORECASE)
_EARTH = 6371.0  # radius in km
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_FIRST = "0001-01-01T00:00:00"
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("source", "model", "weight_hash"), str),
    "dimension": Annotated[int, Range(at_least=1, at_most=1 << 20)],
    "every": Positive,
    "root": str | None,
}


_SAME = ("model", "weight_hash", "layer", "pool", "dimension", "prompts")  # equal if vectors are comparable


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """An image, or a moment of a video."""

    id: str
    """Short, and stable while the file keeps its path."""
    path: str
    """Printable path relative to the indexed directory (see `unescape_name`); TAR/MEMBER in a tar."""
    kind: str
    """"image" or "video"."""
    start: float | None = None
    """For a moment: start in seconds from the video's first frame."""
    stop: float | None = None
    time: float | None = None
    """For a moment: time of the frame most similar to the whole moment."""
    length: float | None = None
    """For a video: total length in seconds."""
    width: int
    height: int
    date: str
    """When it was taken, if it says so, else when the file was changed: "2024-07-31T18:05:00", local time."""
    lat: float | None = None
    """For an image that says where it was taken: degrees north."""
    lon: float | None = None
    """Degrees east."""
    camera: str = ""
    """Maker and model of the camera; empty if unknown."""
    title: str = ""
    """Title, caption and keywords of the file, if it has some."""
    size: int
    """Size of the file in bytes."""
    modified: int
    """Modification time in nanoseconds since 1970."""
    digest: str
    """Hash of the file's content."""
    vector: np.ndarray  # (D,)
    """Unit length."""
    thumbnail: bytes = b""
    """JPEG; empty unless it was requested."""


_TYPES = {"str": ("TEXT NOT NULL", str), "int": ("INTEGER NOT NULL", int), "float | None": ("REAL", float)}
_COLUMNS = {field.name: _TYPES[str(field.type)] for field in fields(IndexRow) if field.type in _TYPES}
COLUMNS = tuple(_COLUMNS)
_OUTSIDE = re.compile(r"^/|(?:^|/)\.\.(?:/|$)|\0" + (r"|\\|:" if os.name == "nt" else ""))
_PATH = COLUMNS.index("path")
_VALID = [(kind, type(None)) if kind is float else (kind,) for _, kind in _COLUMNS.values()]
_TABLES = {
    "settings": "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "rows": "CREATE TABLE rows (key INTEGER PRIMARY KEY, slot INTEGER NOT NULL, "
    + "".join(f"{name} {kind}, " for name, (kind, _) in _COLUMNS.items())
    + "checksum INTEGER NOT NULL)",
    "thumbnails": "CREATE TABLE thumbnails (key INTEGER PRIMARY KEY, jpeg BLOB NOT NULL, checksum INTEGER NOT NULL)",
    "rows_slot": "CREATE UNIQUE INDEX rows_slot ON rows (slot)",
    "rows_id": "CREATE INDEX rows_id ON rows (id)",
    "rows_path": "CREATE INDEX rows_path ON rows (path)",
    "rows_digest": "CREATE INDEX rows_digest ON rows (digest)",
    "rows_newest": "CREATE INDEX rows_newest ON rows (date DESC, path, start, slot)",
    **words.TABLES,
}


class FileState(NamedTuple):
    """Shows whether a file has changed; see `IndexRow`."""

    size: int
    modified: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class State:
    """The counts and identity of an index's content."""

    identity: str
    """Tells an index from the next one in its directory."""
    commit: CountOrZero
    """The number of its last change."""
    generation: Count
    """The number of its file of vectors."""
    slots: CountOrZero
    """The number of vectors in the file that count."""
    rows: CountOrZero
    complete: bool
    """False while `pe index` runs, or if it was stopped."""


@dataclass(frozen=True)
class Snapshot:
    """One transaction's view of an index."""

    connection: sqlite3.Connection
    state: State
    vectors: Vectors

    def checked(self, which: str) -> Iterator[tuple[int, int, list[Any]]]:
        """Yield the keys, slots and values of rows; ValueError if one, or its vector, is damaged."""
        content = self.vectors.content
        select = f"SELECT key, slot, checksum, {', '.join(COLUMNS)} FROM rows {which}"
        for key, slot, checksum, *values in self.connection.execute(select):
            if not 0 <= slot < len(content):
                raise ValueError(f"{DATABASE}: a row has the slot {slot} of {len(content):,}")
            if checksum != checksum_of(values, content[slot]):
                raise ValueError(f"{DATABASE}: the row {key} or its vector has changed since it was written")
            for value, name, types in zip(values, COLUMNS, _VALID, strict=True):
                if type(value) not in types:
                    raise ValueError(f"{DATABASE}: {name} is {str(value)[:80]!r}, not a {types[0].__name__}")
            if not names_media(path := values[_PATH]):
                raise ValueError(f"{DATABASE}: the row {key} has {path[:200]!r}, no image or video in the directory")
            if not are_unit(content[slot]):
                raise ValueError(f"{DATABASE}: the row {key} of {path[:200]!r} has a vector that is not of unit length")
            yield key, slot, values

    def slots_with(self, column: str, value: str) -> list[int]:
        """Return the slots of the rows with a value in a column."""
        return [slot for (slot,) in self.connection.execute(f"SELECT slot FROM rows WHERE {column} = ?", [value])]

    def thumbnail(self, key: int) -> bytes:
        """Return the thumbnail of a row, empty if it has none; ValueError if it is damaged."""
        found = self.connection.execute("SELECT jpeg, checksum FROM thumbnails WHERE key = ?", [key]).fetchone()
        image, checksum = found or (b"", 0)
        if type(image) is not bytes or zlib.crc32(image) != checksum:
            raise ValueError(f"{DATABASE}: a thumbnail has changed since it was written")
        return image


def create_database(path: Path, values: Mapping[str, object]) -> None:
    """Write a database without rows; raises sqlite3's errors. `values`: see `write_value`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("BEGIN")
        for statement in _TABLES.values():
            connection.execute(statement)
        for name, value in values.items():
            write_value(connection, name, value)
        connection.execute("COMMIT")


def connect(store: Path, writable: bool = False) -> sqlite3.Connection:
    """Open the database in an index's directory.

    Raises sqlite3's errors, ValueError if it has other tables, views or triggers, and OutputError if it is a link.
    """
    path = store / DATABASE
    mode = "mode=rw" if writable else _reading_mode(path)
    connection = open_database(path, mode, timeout=_PATIENCE, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA query_only={int(not writable)}")
        for setting in ("synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {setting}")
        if not defines_only(connection, _TABLES.values()):
            raise ValueError(f"{DATABASE} has other tables; another version made it, or it is no index")
    except BaseException:
        connection.close()
        raise
    return connection


def _reading_mode(path: Path) -> str:
    """Return how to read a database so that nothing is left beside it; SearchIndexError if only a writer can read it.

    What a killed process began to write is undone or finished by a reader who may write.
    """
    journal, log, shared = (Path(f"{path}-{name}") for name in ("journal", "wal", "shm"))
    with open(open_regular(path, writable=False), "rb") as file:
        has_log = file.read(20)[18:] == b"\2\2"  # the versions of the format: WAL
    if not has_log and not journal.exists():
        return "mode=ro"
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    if has_log and log.exists() and shared.exists():
        return "mode=ro"
    if is_held(path.with_name(LOCK)):
        raise SearchIndexError(f"{path} is being written, and you may not write it; try again when that has ended")
    if journal.exists() or (log.exists() and log.stat().st_size):
        raise SearchIndexError(f"{path} was left by a stopped update; somebody who may write it must rerun `pe index`")
    return "mode=ro&immutable=1"


def read_value(connection: sqlite3.Connection, name: str, kind: type[T]) -> T:
    """Return one of the table of settings; ValueError if it is missing or not a `kind` (see `from_fields`)."""
    (text,) = connection.execute("SELECT value FROM settings WHERE name = ?", [name]).fetchone() or ("null",)
    try:
        return parse_json(text, kind, name)
    except (ValueError, TypeError) as error:  # a TypeError for a number instead of a text
        raise ValueError(f"{DATABASE}: {error}") from None


def write_value(connection: sqlite3.Connection, name: str, value: object) -> None:
    """Replace one of the table of settings."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", [name, json.dumps(value)])


def read_settings(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the settings of an index; ValueError if that is invalid."""
    return check_settings(read_value(connection, "settings", dict[str, Any]))


def check_settings(value: object) -> dict[str, Any]:
    """Return the settings of an index; ValueError if they are invalid."""
    settings = from_fields(dict[str, Any], value, "settings")
    for name, kind in _SETTINGS.items():
        try:
            from_fields(kind, settings.get(name), name)
        except ValueError as error:
            raise ValueError(f"{DATABASE}: {error}") from None
    return settings


def different_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that make vectors incomparable; only "model" if the models differ.

    `stored`, `now`: as `Encoder.describe` returns them; settings that `now` lacks are not compared.
    """
    different = [name for name in _SAME if name in now and stored.get(name) != now[name]]
    if "model" in different and not same_name(str(stored.get("model")), str(now["model"])):
        return ["model"]
    return [name for name in different if name != "model"]


def insert_rows(connection: sqlite3.Connection, rows: Sequence[IndexRow], slot: int) -> None:
    """Add rows, whose vectors begin at a slot."""
    places = ", ".join("?" * (3 + len(COLUMNS)))
    (last,) = connection.execute("SELECT coalesce(max(key), 0) FROM rows").fetchone()
    for number, row in enumerate(rows, slot):
        values = [
            None if (value := getattr(row, name)) is None else kind(value) for name, (_, kind) in _COLUMNS.items()
        ]
        row_values = [None, number, *values, checksum_of(values, np.ascontiguousarray(row.vector, "<f4"))]
        key = connection.execute(f"INSERT INTO rows VALUES ({places})", row_values).lastrowid
        if row.thumbnail:
            image = [key, row.thumbnail, zlib.crc32(row.thumbnail)]
            connection.execute("INSERT INTO thumbnails VALUES (?, ?, ?)", image)
    words.add_words(connection, "key > ?", [last])


def delete_rows(connection: sqlite3.Connection, paths: Iterable[str]) -> int:
    """Remove the rows of files; return how many there were."""
    names = [(path,) for path in paths]
    for name in names:
        words.remove_words(connection, "path = ?", name)
    connection.executemany("DELETE FROM thumbnails WHERE key IN (SELECT key FROM rows WHERE path = ?)", names)
    before = connection.total_changes
    connection.executemany("DELETE FROM rows WHERE path = ?", names)
    return connection.total_changes - before


def checksum_of(values: Sequence[object], vector: np.ndarray) -> int:
    """Return the CRC-32, which finds accidental damage only, of a row's values and vector."""
    return zlib.crc32(vector.data, zlib.crc32(repr(values).encode()))


def names_media(path: str) -> bool:
    """Return whether a row's path is that of an image or video in the indexed directory, or in a tar there."""
    name = unescape_name(path)
    return not _OUTSIDE.search(name) and os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES


def time_modified(status: os.stat_result) -> int:
    """Return a file's modification time as in the column `modified`, whose range ends in April 2262."""
    return min(max(status.st_mtime_ns, -_LATEST - 1), _LATEST)


def is_unchanged(item: Item, state: FileState | IndexRow) -> bool:
    """Return whether a file has the size and time that it was indexed with."""
    try:
        size, status = item.stat()
    except InputError:
        return False
    return (size, time_modified(status)) == (state.size, state.modified)


def find_slots(connection: sqlite3.Connection, where: str | None, below: str) -> np.ndarray:
    """Return the slots of the rows that match a condition and whose path begins with `below`, newest first.

    ConfigError if the condition is invalid or takes too long.
    """
    parts = ["path >= ? AND path < ?"] if below else []
    bounds = (below, below[:-1] + chr(ord(below[-1]) + 1)) if below else ()
    deadline = time.monotonic() + SCAN_SECONDS
    try:
        if where is not None:
            _compile(connection, where)
            parts.append(f"({_NEAR.sub(_within, whole_dates(where))})")
            connection.set_progress_handler(lambda: time.monotonic() > deadline, SCAN_STEPS)
        query = f"SELECT slot FROM rows WHERE {' AND '.join(parts) or 'TRUE'} ORDER BY date DESC, path, start"
        return np.fromiter((slot for (slot,) in connection.execute(query, bounds)), np.int64)
    except sqlite3.OperationalError as error:
        if where is None:
            raise
        slow = time.monotonic() > deadline
        raise _invalid(where, f"it takes over {SCAN_SECONDS:g} s" if slow else one_line(error)) from None


def _invalid(where: str, reason: str) -> ConfigError:
    columns = f"the columns are {', '.join(DOCUMENTED)}"
    hint = "a place is written near 48.85,2.35 2km; " if re.search(r"\bnear\b", where, re.IGNORECASE) else ""
    return ConfigError(f"the condition {where!r} is invalid: {reason}; {hint}{columns}")


def _compile(connection: sqlite3.Connection, where: str) -> None:
    """Raise ConfigError unless a condition is one expression that reads documented columns only, and calls no `_km`."""
    plain = _NEAR.sub(lambda found: "lat < lon" if found[1] else found[0], where)
    if re.search(r"--|/\*", re.sub(_STRING, "''", where)):
        raise _invalid(where, "it has a comment (-- or /*), which would be ignored")
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own changes ASCII only
    connection.create_function("_km", 4, _kilometres, deterministic=True)
    try:
        for text in (plain, f"({plain})"):  # what closes the parenthesis fails here, what follows an expression there
            connection.set_authorizer(_Permission())
            connection.execute(f"EXPLAIN SELECT 1 FROM rows WHERE {text}")
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise _invalid(where, one_line(error)) from None
    connection.set_authorizer(None)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _within(match: re.Match[str]) -> str:
    """Return SQL for `near LAT,LON KM km`; any other text as it is."""
    if match[1] is None:
        return match[0]
    lat, lon = float(match[1]), float(match[2])
    if abs(lat) > 90 or abs(lon) > 180:
        raise _invalid(match[0], "near takes -90 to 90 degrees north and -180 to 180 east")
    return f"coalesce(_km(lat, lon, {lat}, {lon}) <= {match[3]}, 0)"


def _kilometres(*degrees: object) -> float | None:
    """Return the distance of two places, given as latitude and longitude each; None if one is unknown."""
    known = [math.radians(value) for value in degrees if isinstance(value, float) and abs(value) <= 180]
    if len(known) < 4:
        return None
    lat, lon, other_lat, other_lon = known
    half = math.sin((lat - other_lat) / 2) ** 2
    half += math.cos(lat) * math.cos(other_lat) * math.sin((lon - other_lon) / 2) ** 2
    return 2 * _EARTH * math.asin(min(1.0, math.sqrt(half)))


class _Permission:
    """The authorizer of conditions: SQLite compiles only what it permits."""

    def __init__(self) -> None:
        self._selects = 0

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        self._selects += action == sqlite3.SQLITE_SELECT
        allowed = (
            (action == sqlite3.SQLITE_SELECT and self._selects == 1)
            or (action == sqlite3.SQLITE_READ and first == "rows" and second in ("", *DOCUMENTED))
            or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def whole_dates(condition: str) -> str:
    """Return a condition in which '2024-07' is the whole month: of each date, as much as the text has is compared.

    ConfigError if the column `date` is compared with a text that is not a date.
    """
    return _DATE_COMPARISON.sub(_whole_date, condition)


def _whole_date(match: re.Match[str]) -> str:
    if match["left"]:
        return f"{_cut(match['left'], match['value'])} {match['operator']} {match['value']}"
    if match["right"]:
        return f"{match['first']} {match['flipped']} {_cut(match['right'], match['first'])}"
    column, low, high = match["column"], match["low"], match["high"]
    if column is None:
        return match[0]
    values = re.findall(_STRING, match["list"] or "")
    among = " OR ".join(f"{_cut(column, value)} = {value}" for value in values)
    between = low and f"{_cut(column, low)} >= {low} AND {_cut(column, high)} <= {high}"
    return f"({'NOT ' if match['negated'] else ''}({between or among}))"


def _cut(column: str, literal: str) -> str:
    """Return SQL for as much of a date as a text has; ConfigError if that is not a date."""
    text = literal[1:-1]
    try:
        is_date = _DATE.fullmatch(text) and datetime.fromisoformat(text + _FIRST[len(text) :])
    except ValueError:
        is_date = None
    if not is_date:
        raise ConfigError(
            f"{literal} is not a date; dates look like '2024', '2024-07', '2024-07-31' or '2024-07-31T18:05:00'"
        )
    return f"substr({column}, 1, {len(text)})"
