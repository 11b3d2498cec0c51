"""Conditions in SQLite's SQL on the documented columns of an index."""

from __future__ import annotations

import re
import sqlite3
import time
from datetime import datetime

import numpy as np
from jaxtyping import Int

from perception_encoder.errors import ConfigError, one_line

COLUMNS = ("path", "kind", "date", "size", "length", "width", "height")
_FUNCTIONS = {
    *("abs", "coalesce", "ifnull", "max", "min", "nullif", "round", "typeof"),
    *("date", "datetime", "julianday", "strftime", "time"),
    *("glob", "instr", "length", "like", "lower", "ltrim", "rtrim", "substr", "substring", "trim", "upper"),
}
_SECONDS, _STEPS = 30.0, 10_000  # of the scan; virtual machine instructions between looks at the clock
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
}
_STRING = r"'(?:[^']|'')*'"
_DATE_COMPARISON = re.compile(rf"\bdate\s*[<>=!]+\s*({_STRING})|{_STRING}", re.IGNORECASE)  # other texts are skipped
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_FIRST = "0001-01-01T00:00:00"


def find_slots(connection: sqlite3.Connection, where: str | None, below: str) -> Int[np.ndarray, " K"]:
    """Return the slots of the rows that match a condition and whose path begins with `below`, newest first.

    ConfigError if the condition is invalid or takes too long.
    """
    parts = ["path >= ? AND path < ?"] if below else []
    bounds = (below, below[:-1] + chr(ord(below[-1]) + 1)) if below else ()
    deadline = time.monotonic() + _SECONDS
    try:
        if where is not None:
            check_dates(where)
            _compile(connection, where)
            parts.append(f"({where}\n)")  # which may end in a comment
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        query = f"SELECT slot FROM rows WHERE {' AND '.join(parts) or 'TRUE'} ORDER BY date DESC, path, start"
        return np.fromiter((slot for (slot,) in connection.execute(query, bounds)), np.int64)
    except sqlite3.OperationalError as error:
        if where is None:
            raise
        slow = time.monotonic() > deadline
        raise _invalid(where, f"it takes over {_SECONDS:g} s" if slow else one_line(error)) from None


def _invalid(where: str, reason: str) -> ConfigError:
    return ConfigError(f"the condition {where!r} is invalid: {reason}; the columns are {', '.join(COLUMNS)}")


def _compile(connection: sqlite3.Connection, where: str) -> None:
    """Raise ConfigError unless a condition is one expression that reads documented columns only."""
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own changes ASCII only
    try:
        for text in (where, f"({where}\n)"):  # what closes the parenthesis fails here, what follows an expression there
            connection.set_authorizer(_Permission())
            connection.execute(f"EXPLAIN SELECT 1 FROM rows WHERE {text}")
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise _invalid(where, one_line(error)) from None
    connection.set_authorizer(None)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Permission:
    """The authorizer of conditions: SQLite compiles only what it permits."""

    def __init__(self) -> None:
        self._selects = 0

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        self._selects += action == sqlite3.SQLITE_SELECT
        allowed = (
            (action == sqlite3.SQLITE_SELECT and self._selects == 1)
            or (action == sqlite3.SQLITE_READ and first == "rows" and second in ("", *COLUMNS))
            or (action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def check_dates(condition: str) -> None:
    """Raise ConfigError if a condition compares the column `date` with a text that is not a date."""
    for literal in filter(None, _DATE_COMPARISON.findall(condition)):
        text = literal[1:-1].removesuffix("~")  # after every longer date that begins so
        try:
            is_date = _DATE.fullmatch(text) and datetime.fromisoformat(text + _FIRST[len(text) :])
        except ValueError:
            is_date = None
        if not is_date:
            raise ConfigError(
                f"{literal} is not a date; dates look like '2024', '2024-07', '2024-07-31' or '2024-07-31T18:05:00'"
            )
