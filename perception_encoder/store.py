"""Results that can be interrupted: what every long computation writes, and what its rerun reads.

A store is a directory with one writer and the settings that it was made with. It holds three kinds of results, each
complete or absent after a kill: records (a line of JSON counts once its newline is on disk), parts (a file or a
directory appears by rename, after it is on disk), and data (a file that only grows; a record names the bytes of it
that count). Records and data have checksums, which are compared when they are read. A rerun reads the finished results
and computes the rest.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from perception_encoder.errors import DataError, OutputError, one_line
from perception_encoder.files import (
    holding,
    is_temporary,
    open_regular,
    read_regular,
    remove,
    replacing,
    temporary_beside,
    write_bytes,
    write_json,
    writing,
)
from perception_encoder.records import parse_json

T = TypeVar("T")

SETTINGS, LOCK = "settings.json", "lock"
ROWS_REMEDY = "choose another name, or remove it"
RESUME = "rerun the same command to resume"
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zlib.error)


class Store:
    """A directory of results, locked for writing.

        with Store(out, {"model": name}, remedy="choose another --out") as store:
            captions = store.records(Caption)
            for item in items:
                if item.key not in captions: ...

    Attributes: `path`, `settings` (as JSON values).
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        remedy: str = "use that, or choose another directory",
        writable: bool = True,
    ) -> None:
        """Open or make a store. Without `writable` it must exist, may be read while others write, and only the given
        settings are compared.

        `remedy`: what to do about a store of other settings or a damaged one, for errors. Raises OutputError if
        another process writes, if a setting differs from the store's, or if the directory cannot be written; DataError
        if the settings are damaged or, without `writable`, missing.
        """
        self.path, self._remedy, self._writable = path, remedy, writable
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self._open = ExitStack()
        try:
            if writable:
                self._open.enter_context(holding(path / LOCK, f"another process is writing {path}; wait until it ends"))
                for leftover in filter(is_temporary, path.iterdir()):  # of a killed writer
                    remove(leftover)
            if os.path.lexists(path / SETTINGS):
                with self.reading(path / SETTINGS):
                    earlier = parse_json(read_regular(path / SETTINGS, follow=True), dict[str, Any])
                compare_settings(path, earlier, self.settings, remedy, partly=not writable)
                self.settings = earlier
            elif not writable:
                raise DataError(f"{path} has no {SETTINGS}; {remedy}")
            elif any(entry.name != LOCK for entry in path.iterdir()):
                raise OutputError(f"{path} is not empty and has no {SETTINGS}; {remedy}")
            else:
                write_json(path / SETTINGS, self.settings)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._open.close()

    def discard(self) -> None:
        """Remove the store, whose results are in their final place, at one stroke."""
        with writing(self.path):
            gone = temporary_beside(self.path)
            os.rename(self.path, gone)
            remove(gone)

    def records(self, kind: type[T], name: str = "records") -> Records[T]:
        """Return the records in NAME.jsonl, each a `kind`: a dataclass, or a mapping."""
        return Records(self.path / f"{name}.jsonl", kind, self._remedy, self._writable, checked=True)

    def data(self, name: str = "data") -> Data:
        """Return a file that only grows."""
        return Data(self.path / name, self._remedy)

    def arrays(self, name: str = "arrays", compressed: bool = False) -> Arrays:
        """Return the arrays in NAME.bin, by key; `compressed` ones take less space and more time."""
        return Arrays(self.records(_Entry, name), self.data(f"{name}.bin"), compressed)

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """Yield a temporary path; what the block writes there, a file or a directory, becomes the part `name`.

        OutputError if it cannot be written.
        """
        path = self.path / name
        with writing(path, RESUME, also=(RuntimeError,)), replacing(path) as temporary:
            yield temporary

    def reading(self, path: Path, also: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Turn the errors of reading a damaged file into a DataError."""
        return reading(path, self._remedy, also)


class Records(Generic[T]):
    """A JSONL file of one kind of records that grows line by line; a line that a kill cut off is removed.

    Attribute: `rows`, all so far.
    """

    def __init__(self, path: Path, kind: type[T], remedy: str, writable: bool = True, checked: bool = False) -> None:
        """Read the file, which need not exist; DataError names a damaged line.

        `checked`: each line ends with its checksum, unlike those of a file that users may edit.
        """
        self.path, self.rows, self._checked = path, list[T](), checked
        if not os.path.lexists(path):
            return
        with writing(path), open(open_regular(path, writable, not writable), "r+b" if writable else "rb") as file:
            content = file.read()
            if writable:
                file.truncate(content.rfind(b"\n") + 1)
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                text = line.rpartition(_CHECKSUM)[0] + b"}" if checked else line
                if checked and line != _with_checksum(text):
                    raise ValueError("it differs from its checksum")
                self.rows.append(parse_json(text, kind))
            except ValueError as error:
                raise DataError(f"{path}:{number} is damaged: {one_line(error)}; {remedy}") from None

    def append(self, *rows: T) -> None:
        """Add rows, which are on disk when this returns; OutputError if that fails."""
        _append(self.path, self._lines(rows))
        self.rows += rows

    def replace(self, rows: list[T]) -> None:
        """Write the file anew, at one stroke."""
        write_bytes(self.path, self._lines(rows))
        self.rows = rows

    def _lines(self, rows: Sequence[T]) -> bytes:
        values = (asdict(row) if is_dataclass(row) and not isinstance(row, type) else row for row in rows)
        lines = (json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") for value in values)
        return b"".join((_with_checksum(line) if self._checked else line) + b"\n" for line in lines)


_CHECKSUM = b', "crc32": '  # the last field of a line


def _with_checksum(line: bytes) -> bytes:
    return b"%s%s%d}" % (line[:-1], _CHECKSUM, zlib.crc32(line))


@contextmanager
def row_file(path: Path, kind: type[T], same: Mapping[str, object]) -> Iterator[Records[T]]:
    """Open a JSONL file that users read, as its only writer; all its rows have the fields of `same`.

    Raises OutputError for rows of other settings or if another process writes; see also `Records`. A file that stays
    empty is removed.
    """
    with holding(path, f"another process is writing {path}; wait until it ends"):
        try:
            records = Records(path, kind, ROWS_REMEDY)
            check_rows(path, records.rows, same)
            yield records
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def check_rows(path: Path, rows: Sequence[object], same: Mapping[str, object]) -> None:
    """Raise OutputError if a row was made with other settings."""
    for row in rows:
        compare_settings(path, {name: getattr(row, name) for name in same}, same, ROWS_REMEDY)


@dataclass(frozen=True)
class Span:
    """Where bytes are in a file, and their checksum."""

    offset: int
    size: int
    crc32: int


class Data:
    """A file of bytes that only grows. Bytes after the last that a record names are unused."""

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self._remedy = path, remedy

    def append(self, content: bytes | np.ndarray) -> Span:
        """Add bytes, which are on disk when this returns; return where. OutputError if that fails."""
        return _append(self.path, np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content)

    def read(self, span: Span) -> np.ndarray:
        """Return bytes, mapped from disk; DataError if they are not those that were added."""
        content = self.array("u1", (span.size,), span.offset)
        with self.reading():
            if zlib.crc32(content.data) != span.crc32:
                raise ValueError(f"{span.size:,} bytes at {span.offset:,} differ from their checksum")
        return content

    def cut(self, size: int) -> None:
        """Remove all after `size` bytes, as of a killed write."""
        if self.path.exists():
            with writing(self.path), open(open_regular(self.path), "r+b") as file:
                file.truncate(min(size, file.seek(0, os.SEEK_END)))

    def array(self, dtype: str | np.dtype, shape: Sequence[int], offset: int = 0) -> np.ndarray:
        """Return bytes as an array that is mapped from disk; DataError if the file is too short or missing."""
        if 0 in shape:
            return np.empty(shape, dtype)
        with self.reading(), open(open_regular(self.path, writable=False, follow=True), "rb") as file:
            return np.memmap(file, dtype, "r", offset, tuple(shape))

    def reading(self) -> AbstractContextManager[None]:
        """Turn the errors of damage into a DataError."""
        return reading(self.path, self._remedy)


@dataclass(frozen=True)
class _Entry:
    """Where an array is."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    span: Span


class Arrays:
    """Arrays by key, in one file that grows."""

    def __init__(self, index: Records[_Entry], data: Data, compressed: bool) -> None:
        self._index, self._data, self._compressed = index, data, compressed
        self._entries = {entry.key: entry for entry in index.rows}
        if index.rows:
            with data.reading():  # an array that is added to a cut file would be read in place of another
                if data.path.stat().st_size < max(entry.span.offset + entry.span.size for entry in index.rows):
                    raise ValueError("it is too short")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> np.ndarray | None:
        """Return a key's array, None if there is none; DataError if it is damaged."""
        if (entry := self._entries.get(key)) is None:
            return None
        content = self._data.read(entry.span)
        with self._data.reading():
            content = np.frombuffer(zlib.decompress(content.tobytes()), "u1") if self._compressed else np.array(content)
            return content.view(entry.dtype).reshape(entry.shape)

    def __getitem__(self, key: str) -> np.ndarray:
        """Return a key's array; KeyError if there is none, DataError if it is damaged."""
        if (array := self.get(key)) is None:
            raise KeyError(f"the store has no array {key}")
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        """Add an array; OutputError if that fails."""
        content = np.ascontiguousarray(array)
        packed = zlib.compress(content.data, 1) if self._compressed else content  # higher levels save little
        entry = _Entry(key, content.dtype.str, content.shape, self._data.append(packed))
        self._index.append(entry)
        self._entries[key] = entry


@contextmanager
def reading(path: Path, remedy: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the errors of reading a damaged file into a DataError."""
    damage: tuple[type[Exception], ...] = (*_DAMAGE, *also)
    try:
        yield
    except damage as error:
        raise DataError(f"{path} is damaged ({one_line(error)}); {remedy}") from error


def _append(path: Path, content: bytes | memoryview) -> Span:
    """Add bytes to a file, which is made with its directory; return where, once they are on disk."""
    with writing(path, RESUME):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(open_regular(path), "r+b") as file:
            offset = file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return Span(offset, memoryview(content).nbytes, zlib.crc32(content))


def compare_settings(
    path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any], remedy: str, *, partly: bool = False
) -> None:
    """Raise OutputError if a setting, nested ones included, is not as it was; `partly`: only those of `now`."""
    then, current = _flat(earlier), _flat(now)
    for name in current if partly else {**then, **current}:
        old, new = then.get(name), current.get(name)
        if old != new:
            raise OutputError(f"{path} was made with {name} {_shown(old)}, not {_shown(new)}; {remedy}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
