"""A table of words in a database: which rows have all words of a query, exactly, as a beginning or misread.

Texts are split here, not by SQLite: letters lose case and marks, names are also split at case and digits, and scripts
without spaces into single characters and pairs. A misread letter is found by leaving one out: of each word of five or
more letters, the table has all that remain.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

TABLE = (
    "CREATE VIRTUAL TABLE lookup USING fts5(terms, content='', detail=none, columnsize=0, "
    "tokenize=\"unicode61 remove_diacritics 0 categories 'L* M* N* Co'\")"
)
"""Creates the table: the keys of the rows that it finds, and for each the result of `terms_of`."""
INSERT, DELETE = (
    "INSERT INTO lookup (rowid, terms) VALUES (?, ?)",
    "INSERT INTO lookup (lookup, rowid, terms) VALUES ('delete', ?, ?)",  # with the terms that were inserted
)
MAXIMUM_WORDS = 32
"""A longer query is a description, and is not looked up."""
_LETTERS, _BEGINNING = (5, 24), 3  # of a word that may be misread; of a beginning, at least
_PART = re.compile(r"\d+|[^\W\d_]+")
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_SPACES = re.compile(
    r"([\u0e00-\u0eff\u1780-\u17ff"  # Thai, Lao, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"  # Japanese, Chinese
)
_MARKS = 10  # combining classes of accents and of Hebrew's and Arabic's vowels; lower ones make other letters
_NUMBER = re.compile(r"(?<!\d)\d++(?:[^\w\s]\d++)+")  # an amount, a date, a time
_MISREAD, _JOINT = "\ue000", "\ue001"  # begins a word with a letter left out; joins the parts of a number


@dataclass(frozen=True, kw_only=True)
class WordQuery:
    """Words to look up."""

    words: tuple[str, ...]
    """As `text_words` returns them; all of them must be found."""
    without: tuple[tuple[str, ...], ...] = ()
    """Groups of words; what has all of one is not found."""
    only: bool = False
    """Whether nothing else counts, such as what an image shows."""


def text_words(text: str) -> list[str]:
    """Return the words of a text in order, in the form in which they are compared; then numbers of several parts."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    letters = unicodedata.normalize("NFC", "".join(map(_compared, plain)))
    words = [part for word in letters.split() for part in _NO_SPACES.split(word) if part]
    return words + [re.sub(r"\D", _JOINT, number) for number in _NUMBER.findall(plain)]


@lru_cache(4096)
def _compared(letter: str) -> str:
    """Return a letter or digit itself, nothing for a mark or an invisible character, and a space for any other."""
    category = unicodedata.category(letter)
    if category == "Cf" or unicodedata.combining(letter) >= _MARKS:
        return ""
    return letter if letter.isalnum() or category.startswith("M") else " "


def name_words(name: str) -> list[str]:
    """Return the words of a path: those between separators, and their parts by case and digits."""
    parts = _PART.findall(unicodedata.normalize("NFKC", name).replace("_", " "))
    return text_words(" ".join([name.replace("_", " "), *(_CAPITAL.sub(" ", part) for part in parts)]))


def query_words(text: str) -> tuple[str, ...]:
    """Return the words of a query without repetitions; none if there are too many. A single letter is left out."""
    words = list(dict.fromkeys(text_words(text)))
    words = [word for word in words if len(word) > 1 or not word.isascii() or word.isdecimal()] or words
    return tuple(words) if len(words) <= MAXIMUM_WORDS else ()


def terms_of(words: Iterable[str]) -> str:
    """Return what the table has of a row with these words."""
    terms = set[str]()
    for word in words:
        terms.update(_pieces(word), _misread(word))
    return " ".join(sorted(terms))


def _pieces(word: str) -> list[str]:
    """Return a word; in a script without spaces its characters and, for longer ones, all pairs of neighbours."""
    if not _NO_SPACES.fullmatch(word):
        return [word]
    return [*word, *(word[place : place + 2] for place in range(len(word) - 1))]


@lru_cache(4096)
def _misread(word: str) -> frozenset[str]:
    """Return a longer word and what remains of it without each of its letters, marked."""
    least, most = _LETTERS
    if not least <= len(word) <= most or not any(map(str.isalpha, word)) or _NO_SPACES.fullmatch(word):
        return frozenset()
    return frozenset(_MISREAD + rest for rest in (word, *(word[:at] + word[at + 1 :] for at in range(len(word)))))


def matches(word: str, text: str) -> int:
    """Return how well a word of a query fits one of a text: 3 exactly, 2 as its beginning, 1 misread, 0 not."""
    if word == text or (_NO_SPACES.fullmatch(word) and word in text):
        return 3
    if len(word) >= _BEGINNING and text.startswith(word):
        return 2
    return int(not _misread(word).isdisjoint(_misread(text)))


def expression(query: WordQuery, exact: bool) -> str:
    """Return what the table is asked for the rows that have all words.

    `exact`: without beginnings and misread words, and with the parts of a number together.
    """
    near = (_nearly(word) for word in query.words if _JOINT not in word)
    found = " AND ".join(map(_exactly, query.words) if exact else near)
    without = " OR ".join(f"({' AND '.join(map(_exactly, words))})" for words in query.without)
    return f"({found}) NOT ({without})" if without else found


def _exactly(word: str) -> str:
    """Return the expression for a word; its letters and digits cannot be syntax, in quotes."""
    pieces = _pieces(word) if len(word) == 1 or not _NO_SPACES.fullmatch(word) else _pieces(word)[len(word) :]
    return "(" + " AND ".join(f'"{piece}"' for piece in pieces) + ")"


def _nearly(word: str) -> str:
    beginning = [f'"{word}" *'] if len(word) >= _BEGINNING and not _NO_SPACES.fullmatch(word) else []
    return "(" + " OR ".join([_exactly(word), *beginning, *(f'"{term}"' for term in _misread(word))]) + ")"


def empty_table(connection: sqlite3.Connection) -> None:
    """Replace the table by an empty one, even if it is damaged so that SQLite does not open it."""
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, False)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM lookup_config")
    connection.execute("INSERT INTO lookup_config VALUES ('version', 4)")
    connection.execute("DELETE FROM lookup_data")
    connection.execute("INSERT INTO lookup_data VALUES (10, zeroblob(7))")  # the list of its parts
    connection.execute("DROP TABLE lookup")
    connection.execute(TABLE)


def is_damage(error: str) -> bool:
    """Return whether an error of SQLite, or a problem that it reports, is the table's."""
    return "fts5" in error.lower() or error.endswith(": lookup")


def table_checksum(connection: sqlite3.Connection) -> int:
    """Return the CRC-32 of all that the table stores; raises sqlite3's errors."""
    checksum = 0
    for number, block in connection.execute("SELECT id, block FROM lookup_data ORDER BY id"):
        checksum = zlib.crc32(bytes(block), zlib.crc32(b"%d" % number, checksum))
    return checksum


def is_sound(connection: sqlite3.Connection, checksum: int | None) -> bool:
    """Return whether the table has its `checksum` or, if that is unknown, can be read, which finds little damage."""
    try:
        if checksum is not None:
            return checksum == table_checksum(connection)
        connection.execute("INSERT INTO lookup (lookup) VALUES ('integrity-check')")
    except (sqlite3.Error, TypeError):
        return False
    return True
