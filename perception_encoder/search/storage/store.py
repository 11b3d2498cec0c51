"""The stored index of a directory: a row for each image and each moment of a video, and their vectors.

Only one process writes at a time. It writes and syncs new vectors before the commit that names their slots, so a kill
leaves unused slots at the end and nothing else. Readers see the last commit and never wait. When an update ends, a seal
records the sizes and times of the files; a reader that finds others checks every row.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError, one_line
from perception_encoder.files import holding, is_held, read_regular, remove, replacing, restrict, write_json, writing
from perception_encoder.formats.exclude import parse_patterns
from perception_encoder.models.registry import same_name, shown_name
from perception_encoder.records import parse_json
from perception_encoder.search.storage.database import (
    COLUMNS,
    DATABASE,
    LOCK,
    FileState,
    IndexRow,
    Snapshot,
    State,
    connect,
    create_database,
    delete_rows,
    find_slots,
    insert_rows,
    read_settings,
    read_value,
    write_value,
)
from perception_encoder.search.storage.seal import (
    SEAL,
    STORE,
    check_is_due,
    elsewhere,
    index_command,
    is_sealed,
    read_seal,
    record_check,
    write_seal,
)
from perception_encoder.search.storage.vectors import Vectors, append_vectors, codes_path, vectors_path, write_codes

if TYPE_CHECKING:
    from jaxtyping import Float, Int

logger = logging.getLogger(__name__)

EXCLUDED = "exclude.json"
"""Name of the file of patterns, which outlive a damaged index."""
_EARLIER = "settings.json"  # of an earlier version's index
_GAPS = 1.25  # slots per row, at most
_BLOCK = 16_384  # vectors copied at a time
_AT_ONCE = 500  # rows of one query
CHECKED_DAILY = 25_000  # rows, at most, checked by a search: 0.3 s
_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError, sqlite3.Error, sqlite3.Warning)
_SAME = ("model", "weight_hash", "layer", "pool", "dimension", "prompts")  # equal if vectors are comparable


def different_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that make vectors incomparable; only "model" if the models differ.

    `stored`, `now`: as `Encoder.describe` returns them; settings that `now` lacks are not compared.
    """
    different = [name for name in _SAME if name in now and stored.get(name) != now[name]]
    if "model" in different and not same_name(str(stored.get("model")), str(now["model"])):
        return ["model"]
    return [name for name in different if name != "model"]


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
        self._log = ExitStack()
        """A connection that is open during an update, so that its log can be read by those who cannot create it."""

    @classmethod
    def open(cls, directory: Path, whole: bool = False, verify: bool = False, media: Path | None = None) -> IndexStore:
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

    @classmethod
    def create(cls, directory: Path, settings: Mapping[str, Any]) -> IndexStore:
        """Create an empty index; OutputError if that fails. Of an existing one, only the excluded patterns stay."""
        store = directory / STORE
        state = State(identity=secrets.token_hex(8), commit=0, generation=1, slots=0, rows=0, complete=False)
        values = {"settings": dict(settings), "state": asdict(state), "unreadable": []}
        with writing(store, also=(sqlite3.Error,)):
            store.mkdir(exist_ok=True)
            for suffix in ("", "-journal", "-wal", "-shm"):  # in this order: without the first there is no index
                remove(Path(f"{store / DATABASE}{suffix}"))
            _remove_all_but(store, {LOCK, EXCLUDED})
            append_vectors(vectors_path(store, state.generation), 0, np.empty((0, 1), "<f4"))
            write_seal(store, settings, [])
            with replacing(store / DATABASE) as temporary:
                create_database(temporary, values)
        record_check(store)
        return cls(directory, settings, state)

    @staticmethod
    def exists(directory: Path) -> bool:
        """Return whether a directory has an index that this user may see, damaged or not."""
        return any(os.path.lexists(directory / STORE / name) for name in (DATABASE, _EARLIER))

    @staticmethod
    @contextmanager
    def for_writing(directory: Path, media: Path | None = None) -> Iterator[None]:
        """Lock the index of a directory, or there of `media`, for this process; OutputError if another is writing it,
        or it is a link or a file.
        """
        store = directory / STORE
        if store.is_symlink():
            raise OutputError(f"{store} is a link; remove it, an index must be a directory")
        with writing(store):
            store.mkdir(exist_ok=True)
            restrict(store, directory)
        with holding(store / LOCK, f"another run is writing the index of {directory}", elsewhere(media or directory)):
            yield

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

    def exclude(self, patterns: Sequence[str]) -> None:
        """Set the patterns of files to leave out, which are valid; the next update removes their rows. OutputError."""
        write_json(self._store / EXCLUDED, list(patterns))
        self._restrict()

    def _restrict(self) -> None:
        """Limit the permissions of the index's files to those of the images' directory; OutputError if that fails."""
        with writing(self._store):
            restrict(self._store, self.directory, self.root)

    @property
    def unreadable(self) -> list[str]:
        """Why the last update skipped files, one line for each."""
        with self._reading() as reading:
            return read_value(reading.connection, "unreadable", list[str])

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
            most, count = len(reading.vectors) if allowed is None else len(allowed), 2 * top + 30
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

    @contextmanager
    def _reading(self) -> Iterator[Snapshot]:
        """Open the last commit; SearchIndexError if the index is damaged or was rebuilt."""
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
        (problem,), *_ = reading.connection.execute(f"PRAGMA integrity_check({part})")
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

    def begin(self) -> None:
        """Mark the index as unfinished until `finish`; readers do not wait for commits until `close`."""
        self._set_journal("WAL")
        self._log.enter_context(self._writing())
        with self._changing() as (connection, state):
            _put(connection, state, complete=False)

    def close(self) -> None:
        """Let an update's log end."""
        self._log.close()

    def replace(self, paths: Collection[str], rows: Sequence[IndexRow]) -> None:
        """Replace all rows of some paths in one commit; OutputError if it cannot be written."""
        if not paths and not rows:
            return
        with self._changing() as (connection, state):
            if rows:
                vectors = np.stack([row.vector for row in rows]).astype("<f4")
                append_vectors(vectors_path(self._store, state.generation), state.slots, vectors)
            removed = delete_rows(connection, paths)
            insert_rows(connection, rows, state.slots)
            _put(connection, state, slots=state.slots + len(rows), rows=state.rows - removed + len(rows))

    def finish(self, unreadable: list[str] | None = None) -> None:
        """Compact, renew the compressed vectors, and seal the index as finished, unless that is done.

        `unreadable`: see the property; by default unchanged.
        """
        with self._reading() as reading:
            state, vectors = reading.state, reading.vectors
        if state.slots > _GAPS * state.rows:
            state = self._compact(vectors)
            vectors = self._open_vectors(state)
        files = self._sealed_files(state)
        changed = not state.complete or unreadable not in (None, self.unreadable)
        if write_codes(self._store, state.generation, vectors) or changed or not is_sealed(self._store, files):
            if changed:
                with self._changing() as (connection, state):
                    if unreadable is not None:
                        write_value(connection, "unreadable", unreadable)
                    _put(connection, state, complete=True)
            self.close()
            self._set_journal("DELETE")
            with writing(self._store):
                codes = codes_path(self._store, state.generation)
                files += [codes] if codes.exists() else []
                write_seal(self._store, self.settings, files)
                _remove_all_but(self._store, {*(path.name for path in files), SEAL, LOCK, EXCLUDED})
        self._restrict()

    def _compact(self, vectors: Vectors) -> State:
        with self._changing() as (connection, state):
            query = "SELECT slot FROM rows ORDER BY slot"
            slots = np.fromiter((slot for (slot,) in connection.execute(query)), np.int64)
            with replacing(vectors_path(self._store, state.generation + 1)) as temporary, temporary.open("wb") as file:
                for start in range(0, len(slots), _BLOCK):
                    file.write(vectors.content[slots[start : start + _BLOCK]].data)
            # in this order, no number is taken
            connection.executemany("UPDATE rows SET slot = ? WHERE slot = ?", enumerate(slots.tolist()))
            return _put(connection, state, generation=state.generation + 1, slots=len(slots))

    @contextmanager
    def _changing(self) -> Iterator[tuple[sqlite3.Connection, State]]:
        """Commit the block's changes; OutputError if that fails, or if the index was removed or replaced."""
        with self._writing() as connection:
            connection.execute("BEGIN IMMEDIATE")
            state = read_value(connection, "state", State)
            if state.identity != self._identity:
                raise OutputError(self._gone)
            yield connection, state
            connection.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if not os.path.lexists(self._store / DATABASE):
            raise OutputError(self._gone)
        with (
            writing(self._store, also=(sqlite3.Error, ValueError)),
            closing(connect(self._store, writable=True)) as connection,
        ):
            yield connection

    @property
    def _gone(self) -> str:
        if not self.directory.exists():
            return f"{self.directory} was renamed or removed during the update; run the command with its new name"
        return f"the index of {self.directory} was removed or rebuilt during the update; rerun the command"

    def _set_journal(self, mode: Literal["WAL", "DELETE"]) -> None:
        """Choose between a log, beside which readers read, and a single file, which needs no other to be read."""
        with self._writing() as connection, suppress(sqlite3.OperationalError):  # a reader is at work
            connection.execute(f"PRAGMA journal_mode={mode}")


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


def _put(connection: sqlite3.Connection, state: State, **changes: Any) -> State:
    state = replace(state, commit=state.commit + 1, **changes)
    write_value(connection, "state", asdict(state))
    return state


def _newest_first(rows: Mapping[int, IndexRow]) -> list[int]:
    """Return the slots of rows, in this order."""
    by_path = sorted(rows, key=lambda slot: (rows[slot].path, rows[slot].start or 0))
    return sorted(by_path, key=lambda slot: rows[slot].date, reverse=True)


def _remove_all_but(store: Path, names: Collection[str]) -> None:
    """Remove other files, such as a killed process's, unless a reader has them open where that prevents it."""
    for path in store.iterdir():
        if path.name not in names and not path.name.startswith(DATABASE):
            with suppress(OSError):
                remove(path)
