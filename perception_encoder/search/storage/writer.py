"""Write the index of a directory: create it, change its rows in commits, and seal it.

Only one process writes at a time. It writes and syncs new vectors before the commit that names their slots, so a kill
leaves unused slots at the end and nothing else.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.files import holding, remove, replacing, restrict, write_json, writing
from perception_encoder.search.lookup import table_checksum
from perception_encoder.search.storage.database import (
    DATABASE,
    LOCK,
    IndexRow,
    State,
    connect,
    create_database,
    delete_rows,
    insert_rows,
    read_value,
    write_value,
)
from perception_encoder.search.storage.seal import (
    SEAL,
    STORE,
    elsewhere,
    is_sealed,
    read_seal,
    record_check,
    write_seal,
)
from perception_encoder.search.storage.store import EXCLUDED, IndexStore
from perception_encoder.search.storage.vectors import Vectors, append_vectors, codes_path, vectors_path, write_codes
from perception_encoder.search.storage.words import Unread, mend_words, unread, write_lines
from perception_encoder.words.reader import TextLine

logger = logging.getLogger(__name__)

_GAPS = 1.25  # slots per row, at most
_BLOCK = 16_384  # vectors copied at a time


class IndexWriter(IndexStore):
    """An index that this process writes: see `for_writing`."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], state: State) -> None:
        super().__init__(directory, settings, state)
        self._log = ExitStack()
        """A connection that is open during an update, so that its log can be read by those who cannot create it."""

    @classmethod
    def create(cls, directory: Path, settings: Mapping[str, Any]) -> Self:
        """Create an empty index; OutputError if that fails. Of an existing one, only the excluded patterns stay."""
        store = directory / STORE
        state = State(identity=secrets.token_hex(8), commit=0, generation=1, slots=0, rows=0, complete=False)
        values = {"settings": dict(settings), "state": asdict(state), "unreadable": [], "words": False}
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

    def exclude(self, patterns: Sequence[str]) -> None:
        """Set the patterns of files to leave out, which are valid; the next update removes their rows. OutputError."""
        write_json(self._store / EXCLUDED, list(patterns))
        self._restrict()

    def _restrict(self) -> None:
        """Limit the permissions of the index's files to those of the images' directory; OutputError if that fails."""
        with writing(self._store):
            restrict(self._store, self.directory, self.root)

    @staticmethod
    def mend(directory: Path) -> None:
        """Make the table that finds rows by words anew, if it or lines are damaged; other damage is left to `open`."""
        store, damage = directory / STORE, (sqlite3.Error, ValueError, OSError, SearchIndexError)
        checksum = read_seal(store).get("words") if is_sealed(store, [store / DATABASE]) else None
        with suppress(*damage), closing(connect(store, writable=True)) as connection:
            if mend_words(connection, checksum):
                logger.warning("the words of the index of %s were damaged; damaged lines are read again", directory)

    def begin(self, complete: bool = False) -> None:
        """Mark the index as unfinished until `finish`, unless it is complete; until `close`, readers never wait."""
        self._set_journal("WAL")
        self._log.enter_context(self._writing())
        with self._changing() as (connection, state):
            _put(connection, state, complete=complete)

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

    def set_reads_words(self, words: bool) -> None:
        """Choose whether updates read the words in images."""
        with self._changing() as (connection, _):
            write_value(connection, "words", words)

    def unread(self) -> list[Unread]:
        """Return the images and moments whose words have not been read."""
        with self._reading() as reading:
            return unread(reading.connection)

    def write_words(self, read: Sequence[tuple[Unread, Sequence[TextLine]]]) -> None:
        """Store lines that were read in images and moments, in one commit."""
        with self._changing() as (connection, state):
            for image, lines in read:
                write_lines(connection, image, lines)
            _put(connection, state)

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
                    connection.execute("DELETE FROM words WHERE digest NOT IN (SELECT digest FROM rows)")
                    _put(connection, state, complete=True)
            self.close()
            self._set_journal("DELETE")
            with self._reading() as reading:
                words = table_checksum(reading.connection)
            with writing(self._store):
                codes = codes_path(self._store, state.generation)
                files += [codes] if codes.exists() else []
                write_seal(self._store, self.settings, files, words)
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


def _put(connection: sqlite3.Connection, state: State, **changes: Any) -> State:
    state = replace(state, commit=state.commit + 1, **changes)
    write_value(connection, "state", asdict(state))
    return state


def _remove_all_but(store: Path, names: Collection[str]) -> None:
    """Remove other files, such as a killed process's, unless a reader has them open where that prevents it."""
    for path in store.iterdir():
        if path.name not in names and not path.name.startswith(DATABASE):
            with suppress(OSError):
                remove(path)
