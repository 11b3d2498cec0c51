"""The words of an index's rows: lines read in an image, its title, and its path; the table that finds rows by them.

Lines belong to a content (and, in a video, a moment), so that they stay when a file is moved.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from perception_encoder.preprocess.source import unescape_name
from perception_encoder.records import parse_json
from perception_encoder.search.lookup import (
    DELETE,
    INSERT,
    TABLE,
    WordQuery,
    empty_table,
    expression,
    is_sound,
    matches,
    name_words,
    terms_of,
    text_words,
)
from perception_encoder.words.reader import TextLine

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TABLES = {
    "words": "CREATE TABLE words (digest TEXT NOT NULL, time REAL NOT NULL, lines TEXT NOT NULL, "
    "checksum INTEGER NOT NULL, PRIMARY KEY (digest, time)) WITHOUT ROWID",
    "lookup": TABLE,
}
_IMAGE = -1.0  # the time of an image
_JOINED = "rows LEFT JOIN words ON words.digest = rows.digest AND words.time = coalesce(rows.time, -1)"
_MATCHING = (
    "SELECT slot FROM lookup CROSS JOIN rows ON rows.key = lookup.rowid WHERE lookup MATCH ? ORDER BY lookup.rowid DESC"
)
CANDIDATES, RANKED = 500, 30  # rows beside hits by meaning: whose similarity is computed; that are ranked
_BLOCK = 8192  # vectors in memory at a time
_DIGITS = 4  # of the numbers of a stored box: a fifth of a pixel in 2,000
_SHOWN = 100  # letters of a title that a hit shows


class Unread(NamedTuple):
    """An image, or a moment of a video, whose words have not been read."""

    path: str
    digest: str
    time: float | None


def add_words(connection: sqlite3.Connection, which: str, values: Sequence[object]) -> None:
    """Add rows to the table that finds them; `which`: a condition in SQL."""
    connection.executemany(INSERT, _terms(connection, which, values))


def remove_words(connection: sqlite3.Connection, which: str, values: Sequence[object]) -> None:
    """Remove rows from the table that finds them, before they or their words change."""
    connection.executemany(DELETE, _terms(connection, which, values))


def _terms(connection: sqlite3.Connection, which: str, values: Sequence[object]) -> Iterator[tuple[int, str]]:
    rows = connection.execute(f"SELECT key, path, title, lines FROM {_JOINED} WHERE {which}", values)
    for key, path, title, stored in rows:
        name = unescape_name(str(PurePosixPath(path).with_suffix("")))
        lines = parse_json(stored or "[]", list[TextLine], "words")
        yield key, terms_of(name_words(name) + text_words("\n".join([title, *(line.text for line in lines)])))


def write_lines(connection: sqlite3.Connection, image: Unread, lines: Sequence[TextLine]) -> None:
    """Store the lines that were read in an image or moment, for all rows with its content."""
    rounded = [replace(line, box=tuple(round(share, _DIGITS) for share in line.box)) for line in lines]
    text = json.dumps([line.to_dict() for line in rounded])
    time = _IMAGE if image.time is None else image.time
    rows = "rows.digest = ? AND coalesce(rows.time, -1) = ?", [image.digest, time]
    remove_words(connection, *rows)
    stored = [image.digest, time, text, _checksum(image.digest, time, text)]
    connection.execute("INSERT OR REPLACE INTO words VALUES (?, ?, ?, ?)", stored)
    add_words(connection, *rows)


def lines_of(connection: sqlite3.Connection, digest: str, time: float | None) -> list[TextLine]:
    """Return the lines of an image or moment; ValueError if they are damaged."""
    time = _IMAGE if time is None else time
    query = "SELECT lines, checksum FROM words WHERE digest = ? AND time = ?"
    for text, checksum in connection.execute(query, [digest, time]):
        if checksum != _checksum(digest, time, text):
            raise ValueError(f"the lines of the content {digest} have changed since they were written")
        return parse_json(text, list[TextLine], "words")
    return []


def _checksum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def unread(connection: sqlite3.Connection) -> list[Unread]:
    """Return the images and moments whose words have not been read, each content once, in order."""
    query = (
        f"SELECT min(path), rows.digest, rows.time FROM {_JOINED} WHERE lines IS NULL "
        "GROUP BY rows.digest, rows.time ORDER BY min(path), rows.time"
    )
    return [Unread(*row) for row in connection.execute(query)]


def damaged_lines(connection: sqlite3.Connection) -> list[tuple[str, float]]:
    """Return the contents and times of images and moments whose lines have changed since they were written."""
    rows = connection.execute("SELECT digest, time, lines, checksum FROM words")
    return [(digest, time) for digest, time, text, checksum in rows if checksum != _checksum(digest, time, text)]


def mend_words(connection: sqlite3.Connection, checksum: int | None = None) -> bool:
    """Remove damaged lines, and make the table that finds rows by words anew; return False if all is sound.

    `checksum`: see `is_sound`.
    """
    damaged = damaged_lines(connection)
    if not damaged and is_sound(connection, checksum):
        return False
    empty_table(connection)
    connection.executemany("DELETE FROM words WHERE digest = ? AND time = ?", damaged)
    add_words(connection, "TRUE", [])
    connection.execute("COMMIT")
    return True


def rank_slots(
    connection: sqlite3.Connection,
    query: WordQuery,
    vectors: Float[np.ndarray, "N D"],
    vector: Float[np.ndarray, " D"],
    top: int,
    allowed: Int[np.ndarray, " K"] | None,
) -> dict[int, tuple[bool, float]]:
    """Return the slots of rows that have all words, with whether they do exactly and their cosine similarity.

    Those that do come first, and among each the most similar ones; if they are enough for `top`, there are no others.
    Unless only words count, of more than `CANDIDATES` the last indexed ones are ranked. `allowed`: the slots that may
    be returned, by default all.
    """
    usable, found = np.full(len(vectors), allowed is None), dict[int, bool]()
    if allowed is not None:
        usable[allowed[allowed < len(vectors)]] = True
    for exact in (True, False):
        rows = connection.execute(_MATCHING, [expression(query, exact)])
        slots = (slot for (slot,) in rows if 0 <= slot < len(vectors) and usable[slot])
        found = dict.fromkeys(islice(slots, None if query.only else CANDIDATES), exact) | found
        if len(found) >= max(RANKED, top):
            break
    every, ranked = list(found), list[tuple[bool, float, int]]()
    for start in range(0, len(every), _BLOCK):
        some = every[start : start + _BLOCK]
        scores = (vectors[some] @ vector).tolist()
        ranked += [(found[slot], score, slot) for slot, score in zip(some, scores, strict=True)]
    return {slot: (exact, score) for exact, score, slot in sorted(ranked, reverse=True)}


def explain(words: Sequence[str], title: str, lines: Sequence[TextLine]) -> tuple[str, tuple[TextLine, ...]]:
    """Return why a row was found by words, and the lines that have some of them, best first: see `Hit.why`."""

    def fit(text: str) -> int:
        """Return how well a text has the words: the sum of each word's best match."""
        there = text_words(text)
        return sum(max((matches(word, part) for part in there), default=0) for word in words)

    fitting = sorted(((fit(line.text), line) for line in lines), key=lambda pair: -pair[0])
    having = tuple(line for found, line in fitting if found)
    if having:
        return f'words: "{having[0].text}"', having
    shown = title if len(title) <= _SHOWN else f"{title[:_SHOWN]}…"
    return (f'title: "{shown}"' if fit(title) else "name"), ()
