"""The stored index of a directory: a row for each image and each moment of a video, and their vectors.

Readers see the last commit and never wait. When an update ends, a seal records the sizes and times of the files; a
reader that finds others checks every row.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from perception_encoder.errors import ConfigError, SearchIndexError, one_line
from perception_encoder.files import is_held, read_regular
from perception_encoder.formats.exclude import parse_patterns
from perception_encoder.models.registry import shown_name
from perception_encoder.records import parse_json
from perception_encoder.search.lookup import is_damage
from perception_encoder.search.storage.database import (
    COLUMNS,
    DATABASE,
    LOCK,
    FileState,
    IndexRow,
    Snapshot,
    State,
    connect,
    different_settings,
    find_slots,
    read_settings,
    read_value,
)
from perception_encoder.search.storage.seal import (
    STORE,
    check_is_due,
    index_command,
    is_sealed,
    read_seal,
    record_check,
)
from perception_encoder.search.storage.vectors import Vectors, codes_path, vectors_path
from perception_encoder.search.storage.words import damaged_lines, lines_of, rank_slots

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from perception_encoder.search.lookup import WordQuery
    from perception_encoder.words.reader import TextLine

logger = logging.getLogger(__name__)

EXCLUDED = "exclude.json"
"""Name of the file of patterns, which outlive a damaged index."""
_EARLIER = "settings.json"  # of an earlier version's index
_AT_ONCE = 500  # rows of one query
CHECKED_DAILY = 25_000  # rows, at most, checked by a search: 0.3 s
_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError, sqlite3.Error, sqlite3.Warning)


class IndexStore:
    """An open index; threads may share one. `settings`: those of `Encoder.describe`."""

    below = ""
    """Path prefix of the visible rows: those of a subdirectory."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], state: State) -> None:
        self.directory, self.settings = directory, dict(settings)
        self._store, self._identity, self._checked = directory / STORE, state.identity, state.commit
        self._vectors: tuple[tuple[int, int, bool], Vectors] | None = None
        self._found: tuple[tuple[object, ...], Int[np.ndarray, " K"]] | None = None
        """The slots that matched the last condition."""
        self._thread = threading.local()

    @classmethod
    def open(cls, directory: Path, whole: bool = False, verify: bool = False, media: Path | None = None) -> Self:
        """Open the index of a directory; SearchIndexError if it is missing, damaged or of an earlier version.

        Args:
            whole: Check every row and vector, not only if the files have changed.
            verify: Check everything.
            media: The indexed directory, for the command that rebuilds an index whose settings cannot be read.
        """
        if not IndexStore.exists(directory):
            raise SearchIndexError(f"{directory} has no index; create one with: pe index {directory}")
        with _sound(directory, media):
            if not os.path.lexists(directory / STORE / DATABASE):
                raise ValueError("it was made by an earlier version")
            with closing(connect(directory / STORE)) as connection:
                connection.execute("BEGIN")
                index = cls(directory, read_settings(connection), read_value(connection, "state", State))
        with index._reading() as reading:
            index._check(reading, whole, verify)
        return index

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether a directory has an index that this user may see, damaged or not."""
        return any(os.path.lexists(directory / STORE / name) for name in (DATABASE, _EARLIER))

    @property
    def root(self) -> Path:
        """The indexed directory: the index's own unless the index is stored elsewhere (`--index`)."""
        return Path(self.settings.get("root") or self.directory)

    @property
    def excluded(self) -> list[str]:
        """The patterns of `exclude`, which every update follows; SearchIndexError if they cannot be read."""
        path = self._store / EXCLUDED
        try:
            patterns = parse_json(read_regular(path), list[str])
            parse_patterns(patterns)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, ConfigError) as error:
            command = index_command(self.directory, "--exclude", "")
            raise SearchIndexError(f"{path} cannot be read: {one_line(error)}; exclude none with: {command}") from None
        return patterns

    @property
    def unreadable(self) -> list[str]:
        """Why the last update skipped files, one line for each."""
        with self._reading() as reading:
            return read_value(reading.connection, "unreadable", list[str])

    @property
    def reads_words(self) -> bool:
        """Whether updates read the words in images."""
        with self._reading() as reading:
            return read_value(reading.connection, "words", bool)

    def check(self, settings: Mapping[str, object], model: str) -> None:
        """Raise SearchIndexError if vectors with `settings` (`Encoder.describe`) cannot be compared with the index's.

        `model`: the name or path of their model, for the command that rebuilds the index with it.
        """
        if different := different_settings(self.settings, settings):
            changes = ", ".join(f"{name} {self.settings.get(name)}, not {settings[name]}" for name in different)
            shorter = ["--dimensions", str(settings["dimensions"])] if settings.get("dimensions") else []
            command = index_command(self.directory, "--rebuild", "--model", model, *shorter)
            raise SearchIndexError(
                f"the index of {self.directory} was made with {changes}; use that model, or rebuild it with: {command}"
            )

    def check_name(self, model: str) -> None:
        """Raise SearchIndexError if a model's name alone differs from the index's, before any download."""
        if (name := shown_name(model)) is not None:
            self.check({"model": name}, model)

    def refresh(self) -> int:
        """Return the number of the last commit; SearchIndexError if the index is damaged or was rebuilt."""
        with self._reading() as reading:
            if reading.state.commit != self._checked or check_is_due(self._store):
                self._check(reading)
                self._checked = reading.state.commit
            return reading.state.commit

    @property
    def unfinished(self) -> bool:
        """Whether an update was stopped or is running, so that files may be missing."""
        with self._reading() as reading:
            return not reading.state.complete

    @property
    def being_written(self) -> bool:
        """Whether a process is writing the index now."""
        return is_held(self._store / LOCK)

    def __len__(self) -> int:
        return self.count()

    def count(self, where: str | None = None) -> int:
        """Return how many rows match a condition in SQL; ConfigError if it is invalid."""
        with self._reading() as reading:
            return reading.state.rows if where is None and not self.below else len(self._find(reading, where))

    def files(self) -> dict[str, FileState]:
        """Return the state of each indexed file, by path."""
        with self._reading() as reading:
            rows = reading.connection.execute("SELECT path, size, modified, digest FROM rows")
            return {path: FileState(*state) for path, *state in rows}

    def rows(self, where: str | None = None, thumbnails: bool = False, part: slice = slice(None)) -> list[IndexRow]:
        """Return a part of the rows that match a condition in SQL, newest first; ConfigError if it is invalid."""
        with self._reading() as reading:
            return list(self._read(reading, self._find(reading, where)[part], thumbnails).values())

    def around(self, row_id: str, count: int) -> list[IndexRow]:
        """Return the moments of a row's video, or up to `count` rows before and after an image, oldest first."""
        row = self.row(row_id)
        with self._reading() as reading:
            if row.kind == "video":
                moments = self._read(reading, reading.slots_with("path", row.path))
                return sorted(moments.values(), key=lambda moment: moment.start or 0)
            slots = self._find(reading, None)
            at = int(np.isin(slots, reading.slots_with("id", row_id)).argmax())
            return list(self._read(reading, slots[max(0, at - count) : at + count + 1]).values())[::-1]

    def row(self, row_id: str) -> IndexRow:
        """Return the row of an id with its thumbnail; SearchIndexError if there is none."""
        rows = self.rows_with("id", [row_id])
        if not rows:
            raise SearchIndexError(f"the index of {self.directory} has no item {row_id}; `pe search` prints ids")
        return rows[0]

    def rows_with(self, column: Literal["id", "digest"], values: Collection[str]) -> list[IndexRow]:
        """Return the rows with one of some values in a column, with thumbnails."""
        with self._reading() as reading:
            slots = [slot for value in values for slot in reading.slots_with(column, value)]
            return list(self._read(reading, slots, thumbnails=True).values())

    def nearest(
        self,
        vector: Float[np.ndarray, " D"],
        top: int,
        where: str | None = None,
        thumbnails: bool = False,
        keep: Callable[[IndexRow], bool] = lambda row: True,
    ) -> list[tuple[float, IndexRow]]:
        """Return the `top` rows most similar to a unit vector with their cosine similarities, best first.

        Args:
            where: A condition in SQL on the documented columns; ConfigError if it is invalid.
            keep: Whether a row may be a result; it is asked for the best ones only.
        """
        with self._reading() as reading:
            allowed = np.sort(self._find(reading, where)) if where is not None or self.below else None
            most, count = len(reading.vectors) if allowed is None else len(allowed), top + 40
            while True:
                slots, scores = reading.vectors.nearest(vector, count, allowed)
                score_of = dict(zip(slots.tolist(), scores.tolist(), strict=True))
                rows = self._read(reading, slots)  # some slots have no row any more
                order = sorted(_newest_first(rows), key=lambda slot: -score_of[slot])
                best = list(islice((slot for slot in order if keep(rows[slot])), top))
                if len(best) >= top or count >= most:
                    break
                count *= 2
            rows = self._read(reading, best, thumbnails=True) if thumbnails else rows
            return [(score_of[slot], rows[slot]) for slot in best]

    def with_words(
        self,
        query: WordQuery,
        vector: Float[np.ndarray, " D"],
        top: int,
        where: str | None = None,
        thumbnails: bool = False,
        keep: Callable[[IndexRow], bool] = lambda row: True,
    ) -> list[tuple[bool, float, IndexRow]]:
        """Return the `top` rows that have all words, with whether they do exactly and their cosine similarity.

        For the arguments, see `nearest`, and for the order `rank_slots`.
        """
        found = list[tuple[bool, float, IndexRow]]()
        with self._reading() as reading:
            allowed = self._find(reading, where) if where is not None or self.below else None
            with self._mendable():
                ranked = rank_slots(reading.connection, query, reading.vectors.content, vector, top, allowed)
            slots = iter(ranked)
            while len(found) < top and (some := list(islice(slots, top))):
                rows = self._read(reading, some, thumbnails)
                found += [(*ranked[slot], row) for slot, row in rows.items() if keep(row)]
        return found[:top]

    def lines(self, rows: Sequence[IndexRow]) -> list[list[TextLine]]:
        """Return the lines that were read in each row's image."""
        with self._reading() as reading, self._mendable():
            return [lines_of(reading.connection, row.digest, row.time) for row in rows]

    @contextmanager
    def _mendable(self) -> Iterator[None]:
        """Turn errors from reading words into a SearchIndexError with the remedy, which encodes nothing again."""
        try:
            yield
        except (sqlite3.DatabaseError, ValueError) as error:
            command = index_command(self.directory)
            reason = f"the words of the index of {self.directory} cannot be read ({one_line(error)})"
            raise SearchIndexError(f"{reason}; mend them with: {command}") from error

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """Let this thread read the same commit until it leaves the block, through one connection."""
        with self._reading() as self._thread.reading:
            try:
                yield
            finally:
                del self._thread.reading

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        """Open the last commit; SearchIndexError if the index is damaged or was rebuilt."""
        if reading := getattr(self._thread, "reading", None):
            yield reading
            return
        with _sound(self.directory), closing(connect(self._store)) as connection:
            for last in (False, True):
                connection.execute("BEGIN")
                state = read_value(connection, "state", State)
                if state.identity != self._identity:
                    raise SearchIndexError(f"the index of {self.directory} has been rebuilt; open it again")
                try:
                    vectors = self._open_vectors(state)
                    break
                except FileNotFoundError:  # compacted meanwhile
                    if last:
                        raise
                    connection.execute("ROLLBACK")
            yield Snapshot(connection, state, vectors)

    def _open_vectors(self, state: State) -> Vectors:
        coded = is_sealed(self._store, [codes_path(self._store, state.generation)])
        opened, key = self._vectors, (state.generation, state.slots, coded)
        if opened is None or opened[0] != key:
            self._vectors = opened = key, Vectors(self._store, self.settings["dimension"], *key)
        return opened[1]

    def _find(self, reading: Snapshot, where: str | None) -> Int[np.ndarray, " K"]:
        """Return the slots of the rows that match a condition, newest first; the last ones are remembered."""
        found, key = self._found, (reading.state.commit, where, self.below)
        if found is None or found[0] != key:
            self._found = found = key, find_slots(reading.connection, where, self.below)
        return found[1]

    def _read(self, reading: Snapshot, slots: Iterable[int], thumbnails: bool = False) -> dict[int, IndexRow]:
        """Return the rows of some slots, by slot and in their order; slots without one are left out."""
        found, numbers = dict[int, IndexRow](), list(map(int, slots))
        for start in range(0, len(numbers), _AT_ONCE):
            among = ", ".join(map(str, numbers[start : start + _AT_ONCE]))
            for key, slot, values in reading.checked(f"WHERE slot IN ({among})"):
                thumbnail = reading.thumbnail(key) if thumbnails else b""
                fields = dict(zip(COLUMNS, values, strict=True))
                found[slot] = IndexRow(**fields, vector=reading.vectors.content[slot], thumbnail=thumbnail)
        return {slot: found[slot] for slot in numbers if slot in found}

    def _check(self, reading: Snapshot, whole: bool = False, verify: bool = False) -> None:
        """Raise ValueError or sqlite3's errors if the index is damaged.

        Reads all rows, their vectors and the database's indexes if `whole`, once a day if there are few, and if the
        files have changed and no process is writing them. `verify`: also thumbnails, and all pages of the database.
        """
        sealed, count = is_sealed(self._store, self._sealed_files(reading.state)), reading.state.rows
        daily = sealed and count <= CHECKED_DAILY and check_is_due(self._store)
        if not (whole or verify or daily) and (sealed or self.being_written):
            return
        part = "rows" if sealed and not verify else "1"  # of the tables; or all, up to the first problem
        try:
            (problem,), *_ = reading.connection.execute(f"PRAGMA integrity_check({part})")
        except sqlite3.Error as error:
            problem = str(error)
        with self._mendable():
            if is_damage(problem):
                raise ValueError(problem)
            if part == "1" and (damaged := damaged_lines(reading.connection)):
                raise ValueError(f"the lines of {len(damaged):,} images have changed since they were written")
        if problem != "ok":
            raise ValueError(f"{DATABASE}: {problem}")
        if (found := sum(1 for _ in reading.checked("NOT INDEXED"))) != count:
            raise ValueError(f"{DATABASE} has {found:,} rows, not {count:,}")
        if read_seal(self._store).get("settings", self.settings) != self.settings:
            raise ValueError(f"{DATABASE}: its settings have changed since they were written")
        for (key,) in reading.connection.execute("SELECT key FROM thumbnails") if verify else ():
            reading.thumbnail(key)
        record_check(self._store)

    def _sealed_files(self, state: State) -> list[Path]:
        return [self._store / DATABASE, vectors_path(self._store, state.generation)]


@contextmanager
def _sound(directory: Path, media: Path | None = None) -> Iterator[None]:
    """Turn errors from reading an index into a SearchIndexError with the remedy."""
    try:
        yield
    except _DAMAGE as error:
        file = f"{DATABASE}: " if isinstance(error, sqlite3.Error) else ""
        remedy = f"if this persists, rebuild it with: {index_command(directory, '--rebuild', media=media)}"
        if isinstance(error, PermissionError):
            remedy = "ask its owner for permission to read it"
        elif not directory.exists():
            remedy = f"{directory} was renamed or removed; run the command with its new name"
        reason = f"the index of {directory} cannot be read ({file}{one_line(error)})"
        raise SearchIndexError(f"{reason}; {remedy}") from error


def _newest_first(rows: Mapping[int, IndexRow]) -> list[int]:
    """Return the slots of rows, in this order."""
    by_path = sorted(rows, key=lambda slot: (rows[slot].path, rows[slot].start or 0))
    return sorted(by_path, key=lambda slot: rows[slot].date, reverse=True)
