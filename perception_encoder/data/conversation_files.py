"""Read conversation files: JSONL, JSON, CSV, TSV, Parquet and WebDataset shards.

A file first yields its records in order, with an error in place of each bad one, and then returns any record by its
row. JSONL is located by byte offsets and parsed on access, so that each of a million lines takes 8 bytes.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.data.conversation_records import ANSWER_FIELDS, CONTENT_FIELDS, MEDIA_FIELDS, MediaKind, Record
from perception_encoder.data.shard_index import load_table, summarize_shard
from perception_encoder.errors import DataError, InputError, one_line
from perception_encoder.files import cached_by_file
from perception_encoder.formats.entries import read_json
from perception_encoder.formats.tables import TableImage, iterate_table
from perception_encoder.preprocess.source import escape_name

logger = logging.getLogger(__name__)

_BLOCK = 1 << 22
_BOM = b"\xef\xbb\xbf"
_MEDIA_NAMES: dict[str, MediaKind] = {name: kind for kind, names in MEDIA_FIELDS.items() for name in names}
_FIELDS = ("id", *CONTENT_FIELDS, *ANSWER_FIELDS, *_MEDIA_NAMES)

Scanned = tuple[int, Record | InputError]
"""A row and its record, or the record's error."""


class ConversationFile(ABC):
    """A file of records."""

    def __init__(self, path: Path) -> None:
        """Open a file; DataError if it cannot be read."""
        self.path, self.name = path, escape_name(path)
        self.edges = np.zeros(1, np.int64)
        """First rows of the parts of the file that are read together."""
        self.count = 0
        """Maximum number of records that `scan` yields."""

    def scan(self) -> Iterator[Scanned]:
        """Yield all records in row order; DataError if the file cannot be read."""
        for row in range(self.count):
            try:
                yield row, self.read(row)
            except InputError as error:
                yield row, error

    @abstractmethod
    def read(self, row: int) -> Record:
        """Return the record of a row; InputError if it is bad or the file has changed."""

    def _record(self, content: bytes, position: str) -> Record:
        return _json_record(content, self.name + position, self.path.name + position)


class JsonLines(ConversationFile):
    """The lines of a JSONL file; empty ones are skipped."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        edges, self.size = [np.zeros(1, np.int64)], 0
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    edges.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (self.size + 1))
                    self.size += len(block)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None
        self.lines = np.concatenate(edges)
        """Where the lines start and the last one ends, in bytes, int64."""
        if self.lines[-1] != self.size:  # the last line has no line break
            self.lines = np.append(self.lines, self.size)
        self.count = len(self.lines) - 1

    def scan(self) -> Iterator[Scanned]:
        """Yield the records of all lines with content."""
        with self.path.open("rb") as file:
            for row in range(self.count):
                if content := file.read(self.lines[row + 1] - self.lines[row]).strip():
                    try:
                        yield row, self._record(content, f":{row + 1}")
                    except InputError as error:
                        yield row, error

    def read(self, row: int) -> Record:
        """Parse a line."""
        position = f":{row + 1}"
        try:
            with self.path.open("rb") as file:
                changed = file.seek(0, 2) != self.size
                file.seek(self.lines[row])
                content = file.read(self.lines[row + 1] - self.lines[row])
        except OSError as error:
            raise InputError(self.name + position, f"cannot be read: {error.strerror or error}") from None
        if changed:
            raise InputError(self.name + position, "the file has changed since it was opened; open it again")
        return self._record(content, position)


def _json_record(content: bytes, where: str, key: str) -> Record:
    try:
        fields = json.loads(content.removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is not JSON: {one_line(error)}") from None
    if not isinstance(fields, dict):
        raise InputError(where, "is not a JSON object")
    return Record(where, key, fields)


class StoredRecords(ConversationFile):
    """The items of a JSON list or the rows of a CSV or TSV file, in memory as JSON."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.rows: list[tuple[str, bytes | InputError]] = []
        """Each row's position in the file and its content, or its error."""
        if path.suffix.lower() == ".json":
            items = read_json(path)
            if not isinstance(items, list):
                raise DataError(f"{self.name} is not a JSON list; JSON in lines needs the suffix .jsonl")
            self.rows = [(f"[{row}]", json.dumps(item).encode()) for row, item in enumerate(items)]
        for cells in () if path.suffix.lower() == ".json" else iterate_table(path):
            if isinstance(cells, InputError):
                if cells.source == self.name:  # an error of the whole table
                    raise DataError(str(cells))
                self.rows.append(("", cells))
            else:
                where, fields = cells
                used = {field: fields[field] for field in _FIELDS if fields.get(field) not in (None, "")}
                self.rows.append((f":{where.rpartition(':')[2]}", json.dumps(used).encode()))
        self.count = len(self.rows)

    def read(self, row: int) -> Record:
        """Return an item or a row."""
        position, content = self.rows[row]
        if isinstance(content, InputError):
            raise content
        return self._record(content, position)


class ParquetRecords(ConversationFile):
    """The rows of a Parquet file, by row group; images and videos stay in their cells until opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            file = pq.ParquetFile(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.name} cannot be read: {one_line(error)}") from None
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.edges = np.cumsum([0, *sizes], dtype=np.int64)
        self.count = int(self.edges[-1])
        schema, leaves = file.schema_arrow, [file.schema.column(at).path for at in range(len(file.schema))]
        self.fields = [name for name in schema.names if name in _FIELDS]
        self.cells = {name for name in self.fields if name in _MEDIA_NAMES and not _holds_text(schema.field(name).type)}
        """Fields with media in their cells."""
        self.columns: list[str] = []
        """The columns to read; for media only their paths, to detect empty cells."""
        for name in self.fields:
            paths = [leaf for leaf in leaves if leaf.startswith(f"{name}.") and leaf.endswith(".path")]
            self.columns += paths if paths and name in self.cells else [name]

    def read(self, row: int) -> Record:
        """Return a row; the most recent row groups stay in memory, without media."""
        group = int(np.searchsorted(self.edges, row, "right")) - 1
        within, position = row - int(self.edges[group]), f":{row + 1}"
        try:
            table = _read_group(self.path, group, tuple(self.columns))
            fields: dict[str, Any] = {name: table[name][within].as_py() for name in self.fields}
        except (OSError, IndexError, KeyError, ValueError, pa.ArrowException) as error:
            raise InputError(self.name + position, f"cannot be read: {one_line(error)}") from None
        for name in self.cells:
            if isinstance(fields[name], list):
                images = range(len(fields[name]))
                fields[name] = [TableImage(self.path, group, within, name, index) for index in images]
            elif fields[name] is not None:
                fields[name] = TableImage(self.path, group, within, name)
        return Record(self.name + position, self.path.name + position, fields)


def _holds_text(column: pa.DataType) -> bool:
    inner = column.value_type if pa.types.is_list(column) or pa.types.is_large_list(column) else column
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)


@cached_by_file(4)
def _read_group(path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
    return pq.ParquetFile(path).read_row_group(group, columns=list(columns))


class ShardRecords(ConversationFile):
    """Samples of a tar: KEY.jpg or KEY.mp4 with a conversation in KEY.json."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        summary = summarize_shard(str(path))
        if summary.problem:
            raise DataError(summary.problem)
        self.kind: MediaKind = "image" if summary.pairs(("json",), "image") else "video"
        self.count = summary.pairs(("json",), self.kind)
        if not self.count:
            raise DataError(f"{self.name} has no samples with an image or video and a .json")
        if others := sum(summary.samples.values()) - self.count:
            logger.warning("%s: left out %d samples without %s and .json", self.name, others, self.kind)

    def read(self, row: int) -> Record:
        """Return the conversation of a sample."""
        record = self.read_json(row)
        if all(record.fields.get(name) is None for name in CONTENT_FIELDS):
            raise InputError(record.where, f"its .json has no conversation; add one of {', '.join(CONTENT_FIELDS)}")
        return record

    def read_json(self, sample: int) -> Record:
        """Return a sample's JSON and media."""
        table = load_table(str(self.path), ("json",), self.kind)
        if len(table.keys) <= sample:
            raise InputError(self.name, "has changed since it was opened; open it again")
        key, where = table.keys[sample], table.name(sample)
        fields = _json_record(table.read(sample, ("json",), "")["json"], where, key).fields
        others = {name: value for name, value in fields.items() if name not in _MEDIA_NAMES}
        return Record(where, key, {**others, self.kind: ShardMedia(str(self.path), sample, self.kind)}, key)


@dataclass(frozen=True)
class ShardMedia:
    """An image or a video in a tar."""

    url: str
    sample: int
    kind: MediaKind

    def read(self) -> bytes:
        """Return its bytes; MediaDecodeError if the tar cannot be read."""
        return load_table(self.url, ("json",), self.kind).read(self.sample, (), self.kind)[self.kind]
