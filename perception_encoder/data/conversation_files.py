"""Read conversation files: JSONL, JSON, CSV, TSV, Parquet and WebDataset shards.

A file first yields its records in order, with an error in place of each bad one, and then returns any record by its
row. JSON is located by byte offsets and parsed on access, so that each of a million lines takes 8 bytes.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.data.captions import HeldOut
from perception_encoder.data.conversation_records import (
    ANSWER_FIELDS,
    CONTENT_FIELDS,
    MEDIA_FIELDS,
    MediaKind,
    Record,
    Turn,
)
from perception_encoder.data.shard_index import ShardTable, load_table, summarize_shard
from perception_encoder.errors import DataError, InputError, one_line
from perception_encoder.files import cached_by_file
from perception_encoder.formats.tables import TableImage, iterate_table
from perception_encoder.preprocess.source import escape_name

Expand = Callable[[Mapping[str, Any], MediaKind], Sequence[Sequence[Turn]]]
"""Makes conversations from a sample's JSON if it has none; raises DataError for a bad field."""
MOST_EXPANDED = 3
"""Maximum number of conversations made for a sample; the others are left out."""
ONE_PART = np.zeros(1, np.int64)
_BLOCK = 1 << 22
_BOM = b"\xef\xbb\xbf"
_MEDIA_NAMES: dict[str, MediaKind] = {name: kind for kind, names in MEDIA_FIELDS.items() for name in names}
_FIELDS = ("id", *CONTENT_FIELDS, *ANSWER_FIELDS, *_MEDIA_NAMES)

Scanned = tuple[int, Record | InputError]
"""A row and its record, or the record's error."""


class ConversationFile(Protocol):
    """A file of records."""

    path: Path
    edges: np.ndarray
    """int64: first rows of the parts of the file that are read together."""

    @property
    def count(self) -> int:
        """Maximum number of records that `scan` yields."""
        ...

    def scan(self) -> Iterator[Scanned]:
        """Yield all records in row order, once, before any `read`; DataError if the file cannot be read."""
        ...

    def read(self, row: int) -> Record:
        """Return the record of a row; InputError if the file has changed."""
        ...


class JsonRecords:
    """The lines of a JSONL file, or the objects of a JSON file's list."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.edges = path, escape_name(path), ONE_PART
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(1 << 16).removeprefix(_BOM).lstrip()
            self.in_list = path.suffix.lower() == ".json" and head.startswith(b"[")
            self.starts, self.ends = _list_spans(path) if self.in_list else _line_spans(path)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None

    @property
    def count(self) -> int:
        """Number of lines (including empty ones) or objects."""
        return len(self.starts)

    def scan(self) -> Iterator[Scanned]:
        """Yield the records, skipping empty lines."""
        try:
            with self.path.open("rb") as file:
                for row in range(self.count):
                    file.seek(self.starts[row])
                    content = file.read(self.ends[row] - self.starts[row])
                    if content.strip():
                        try:
                            yield row, self._record(row, content)
                        except InputError as error:
                            yield row, error
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None

    def read(self, row: int) -> Record:
        """Parse a record."""
        try:
            with self.path.open("rb") as file:
                changed = file.seek(0, 2) != self.size
                file.seek(self.starts[row])
                content = file.read(self.ends[row] - self.starts[row])
        except OSError as error:
            raise InputError(self._where(row), f"cannot be read: {error.strerror or error}") from None
        if changed:
            raise InputError(self._where(row), "the file has changed since it was opened; open it again")
        return self._record(row, content)

    def _where(self, row: int) -> str:
        return f"{self.name}{self._position(row)}"

    def _position(self, row: int) -> str:
        return f"[{row}]" if self.in_list else f":{row + 1}"

    def _record(self, row: int, content: bytes) -> Record:
        return _json_record(content, self._where(row), f"{self.path.name}{self._position(row)}")


def _json_record(content: bytes, where: str, key: str) -> Record:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is not JSON: {one_line(error)}") from None
    if not isinstance(fields, dict):
        raise InputError(where, "is not a JSON object")
    return Record(where, key, fields)


def _line_spans(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return where a file's lines start and end, in bytes: int64 (n,) views of one array."""
    edges, position = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            edges.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (position + 1))
            position += len(block)
    every = np.concatenate(edges)
    if every[-1] != position:  # the last line does not end
        every = np.append(every, position)
    return every[:-1], every[1:]


def _list_spans(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return where the objects of a JSON list start and end, in bytes; only here is the whole file in memory."""
    content = path.read_bytes()
    decoder, spaces = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    starts, ends = list[int](), list[int]()
    try:
        text = content.removeprefix(_BOM).decode()
        position, offset = len(content) - len(content.removeprefix(_BOM)), 0
        del content
        at = spaces.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]  # it matches anything
        while text[at : at + 1] != "]" or starts:
            end = decoder.raw_decode(text, at)[1]
            first = position + len(text[offset:at].encode())
            position, offset = first + len(text[at:end].encode()), end
            starts.append(first)
            ends.append(position)
            at = spaces.match(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] != ",":
                break
            at = spaces.match(text, at + 1).end()  # type: ignore[union-attr]
        if text[at:].strip() != "]":
            raise json.JSONDecodeError("Expecting ',' or the list's end", text, at)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{escape_name(path)} cannot be read as JSON: {one_line(error)}") from None
    return np.array(starts, np.int64), np.array(ends, np.int64)


class TableRecords:
    """The rows of a CSV or TSV file, stored as JSON without unused columns."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.edges = path, escape_name(path), ONE_PART
        self.content, self.ends, self.lines = bytearray(), array("q"), array("q")
        try:
            self.count = len(_line_spans(path)[0])
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None

    def scan(self) -> Iterator[Scanned]:
        """Read the table."""
        for row, cells in enumerate(iterate_table(self.path)):
            name, used = (cells.source, {}) if isinstance(cells, InputError) else cells
            if name == self.name:  # an error of the whole table
                raise DataError(str(cells))
            used = {field: used[field] for field in _FIELDS if used.get(field) not in (None, "")}
            self.content += json.dumps(used).encode()
            self.ends.append(len(self.content))
            self.lines.append(int(name.rpartition(":")[2]))
            yield row, cells if isinstance(cells, InputError) else self.read(row)

    def read(self, row: int) -> Record:
        """Return a row of the table."""
        content = self.content[self.ends[row - 1] if row else 0 : self.ends[row]]
        position = f":{self.lines[row]}"
        return _json_record(bytes(content), f"{self.name}{position}", f"{self.path.name}{position}")


class ParquetRecords:
    """The rows of a Parquet file, by row group; images and videos stay in their cells until opened."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, escape_name(path)
        try:
            file = pq.ParquetFile(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.name} cannot be read: {one_line(error)}") from None
        metadata = file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.edges = np.cumsum([0, *sizes], dtype=np.int64)
        leaves = [file.schema.column(at).path for at in range(len(file.schema))]
        self.fields: dict[str, str] = {}
        """Columns by field name."""
        self.cells: set[str] = set()
        """Fields with media in their cells."""
        self.columns: list[str] = []
        """The columns to read; for media only their paths, to detect empty cells."""
        for column in file.schema_arrow:
            field = column.name.strip().lower()
            if field not in _FIELDS or field in self.fields:
                continue
            self.fields[field] = column.name
            inner = column.type.value_type if _is_list(column.type) else column.type
            if field in _MEDIA_NAMES and not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
                self.cells.add(field)
                paths = [leaf for leaf in leaves if leaf.startswith(f"{column.name}.") and leaf.endswith(".path")]
                self.columns += paths or [column.name]
            else:
                self.columns.append(column.name)

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.edges[-1])

    def scan(self) -> Iterator[Scanned]:
        """Yield the records, one row group after another."""
        for row in range(self.count):
            try:
                record = self.read(row)
            except InputError as error:
                raise DataError(str(error)) from None
            yield row, record

    def read(self, row: int) -> Record:
        """Return a row; the most recent row groups stay in memory, without media."""
        group = int(np.searchsorted(self.edges, row, "right")) - 1
        within = row - int(self.edges[group])
        where = f"{self.name}:{row + 1}"
        try:
            table = _read_group(self.path, group, tuple(self.columns))
            cells = {field: table[column][within].as_py() for field, column in self.fields.items()}
        except (OSError, IndexError, KeyError, ValueError, pa.ArrowException) as error:
            raise InputError(where, f"cannot be read: {one_line(error)}") from None
        for field in self.cells:
            cell, column = cells[field], self.fields[field]
            if isinstance(cell, list):
                cells[field] = [TableImage(self.path, group, within, column, at) for at in range(len(cell))]
            elif cell is not None:
                cells[field] = TableImage(self.path, group, within, column)
        return Record(where, f"{self.path.name}:{row + 1}", cells)


def _is_list(column: pa.DataType) -> bool:
    return any(check(column) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


@cached_by_file(4)
def _read_group(path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
    return pq.ParquetFile(path).read_row_group(group, columns=list(columns))


class ShardRecords:
    """Samples of a tar: KEY.jpg or KEY.mp4 with a KEY.json that has a conversation or that `expand` can read."""

    def __init__(self, path: Path, expand: Expand | None = None) -> None:
        self.path, self.name, self.edges = path, escape_name(path), ONE_PART
        self.url, self.expand = str(path), expand
        summary = summarize_shard(self.url, HeldOut())
        if summary.problem:
            raise DataError(summary.problem)
        self.kind: MediaKind = "image" if summary.pairs(("json",), "image") else "video"
        self.count = summary.pairs(("json",), self.kind) * MOST_EXPANDED
        if not self.count:
            raise DataError(f"{self.name} has no samples with an image or video and a .json")

    def scan(self) -> Iterator[Scanned]:
        """Yield the conversations of all samples."""
        for sample in range(self.count // MOST_EXPANDED):
            try:
                records = self._records(sample)
            except InputError as error:
                yield sample * MOST_EXPANDED, error
                continue
            yield from ((sample * MOST_EXPANDED + at, record) for at, record in enumerate(records))

    def read(self, row: int) -> Record:
        """Return a conversation of a sample."""
        sample, at = divmod(row, MOST_EXPANDED)
        try:
            return self._records(sample)[at]
        except IndexError:
            raise InputError(self._table.name(sample), "has changed since it was opened; open it again") from None

    @property
    def _table(self) -> ShardTable:
        return load_table(self.url, ("json",), self.kind)

    def _records(self, sample: int) -> list[Record]:
        """Return the conversations of a sample; InputError if its JSON cannot be read."""
        key, where = self._table.keys[sample], self._table.name(sample)
        record = _json_record(self._table.read(sample, ("json",), "")["json"], where, key)
        media = ShardMedia(self.url, sample, self.kind)
        if any(record.fields.get(name) is not None for name in CONTENT_FIELDS):
            others = {name: value for name, value in record.fields.items() if name not in _MEDIA_NAMES}
            return [Record(where, key, {**others, self.kind: media}, key)]
        try:
            conversations = self.expand(record.fields, self.kind)[:MOST_EXPANDED] if self.expand else ()
        except DataError as error:
            raise InputError(where, str(error)) from None
        if not conversations:
            raise InputError(where, f"its .json has no conversation; add one of {', '.join(CONTENT_FIELDS)}")
        return [
            Record(where, f"{key}/{at}", {"messages": _messages(turns), self.kind: media}, key)
            for at, turns in enumerate(conversations)
        ]


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


@dataclass(frozen=True)
class ShardMedia:
    """An image or a video in a tar."""

    url: str
    sample: int
    kind: MediaKind

    def read(self) -> bytes:
        """Return its bytes; MediaDecodeError if the tar cannot be read."""
        return load_table(self.url, ("json",), self.kind).read(self.sample, (), self.kind)[self.kind]
