"""Open conversations for training language models: JSONL, JSON, Parquet and WebDataset shards.

One pass over all files checks each record (see `conversation_records`); after that a sample is parsed on access. JSONL
is located by byte offsets, so that each of a million lines takes 8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from perception_encoder.data.conversation_records import (
    CONTENT_FIELDS,
    MEDIA_FIELDS,
    ConversationSample,
    MediaKind,
    Record,
    parse_record,
)
from perception_encoder.data.shard_index import load_table, summarize_shard
from perception_encoder.errors import ConfigError, DataError, InputError, one_line
from perception_encoder.files import cached_by_file, digest
from perception_encoder.formats.entries import read_json
from perception_encoder.formats.shards import shards_below, split_names
from perception_encoder.formats.tables import TableImage, open_parquet
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.records import parse_json

logger = logging.getLogger(__name__)

NAMED = 5
"""Maximum number of bad records to log by name."""
_ROWS = 1 << 40
"""Exceeds the number of rows of any file."""
_BOM = b"\xef\xbb\xbf"
_MEDIA_NAMES: dict[str, MediaKind] = {name: kind for kind, names in MEDIA_FIELDS.items() for name in names}
_FIELDS = ("id", *CONTENT_FIELDS, *_MEDIA_NAMES)

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
        self.lines = array("q", [0])
        """Where each line starts and the last one ends, in bytes."""
        try:
            with path.open("rb") as file:
                for line in file:
                    self.lines.append(self.lines[-1] + len(line))
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}") from None
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
                changed = file.seek(0, 2) != self.lines[-1]
                file.seek(self.lines[row])
                content = file.read(self.lines[row + 1] - self.lines[row])
        except OSError as error:
            raise InputError(self.name + position, f"cannot be read: {error.strerror or error}") from None
        if changed:
            raise InputError(self.name + position, "the file has changed since it was opened; open it again")
        return self._record(content, position)


def _json_record(content: bytes, where: str, key: str) -> Record:
    try:
        fields = parse_json(content.removeprefix(_BOM), object)
    except ValueError as error:
        raise InputError(where, f"is not JSON: {one_line(error)}") from None
    if not isinstance(fields, dict):
        raise InputError(where, "is not a JSON object")
    return Record(where, key, fields)


class JsonList(ConversationFile):
    """The items of a JSON list, in memory as JSON."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        items = read_json(path)
        if not isinstance(items, list):
            raise DataError(f"{self.name} is not a JSON list; JSON in lines needs the suffix .jsonl")
        self.items = [json.dumps(item).encode() for item in items]
        self.count = len(items)

    def read(self, row: int) -> Record:
        """Return an item."""
        return self._record(self.items[row], f"[{row}]")


class ParquetRecords(ConversationFile):
    """The rows of a Parquet file, by row group; images and videos stay in their cells until opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            file = open_parquet(path)
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
    return open_parquet(path).read_row_group(group, columns=list(columns))


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


READERS: dict[str, Callable[[Path], ConversationFile]] = {
    ".jsonl": JsonLines,
    ".json": JsonList,
    ".parquet": ParquetRecords,
    ".tar": ShardRecords,
}
"""How a file is read, by suffix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversations:
    """Samples of a dataset, or a part of it, read on access: `len(data)`, `data[i]`, `for sample in data`.

    It can be pickled, and threads may share it. Reading raises InputError if a file has changed.
    """

    files: tuple[ConversationFile, ...] = field(repr=False)
    rows: np.ndarray = field(repr=False)
    """int64 (n,): file × 2^40 + row of each sample."""
    groups: np.ndarray = field(repr=False)
    """uint64 (n,): a hash of a sample's media, or of its key if it names no files."""
    fingerprint: str
    """A hash of the files' names and sizes and of all samples, independent of the dataset's directory."""
    bad: int = 0
    """Number of records left out."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ConversationSample:
        """Return the sample at an index; IndexError beyond the last one."""
        file, row = divmod(int(self.rows[index]), _ROWS)
        return parse_record(self.files[file].read(row), self.files[file].path.parent)

    def __iter__(self) -> Iterator[ConversationSample]:
        return (self[index] for index in range(len(self)))

    @property
    def sizes(self) -> list[int]:
        """Numbers of consecutive samples in a file or row group; shuffle and read these together."""
        edges = np.concatenate([file.edges + number * _ROWS for number, file in enumerate(self.files)])
        parts = np.searchsorted(edges, self.rows, "right")
        changes = np.flatnonzero(np.diff(parts)) + 1
        return [int(size) for size in np.diff([0, *changes, len(parts)])]

    def split(self, validation: float) -> tuple[Conversations, Conversations]:
        """Return the samples to train on, and about this share of all samples for validation.

        A sample's part depends on its images' and videos' paths, or its key, alone: it does not change if others are
        added, samples of the same files lie in one part, and a smaller share is a part of a larger one. Images inside
        Parquet files have no names, so there each sample stands for itself. ConfigError unless the share is in (0, 1).
        """
        if not 0 < validation < 1:
            raise ConfigError(f"the validation share is {validation}; it must be between 0 and 1")
        held_out = (self.groups >> np.uint64(11)).astype(np.float64) / 2.0**53 < validation
        return self._select(~held_out, f"train {validation}"), self._select(held_out, f"validation {validation}")

    def _select(self, selected: np.ndarray, name: str) -> Conversations:
        fingerprint = digest(self.fingerprint, name)
        return replace(self, rows=self.rows[selected], groups=self.groups[selected], fingerprint=fingerprint)


def open_conversations(
    path: Path,
    *,
    skip_bad: bool = False,
    read_shard: Callable[[Path], ConversationFile] = ShardRecords,
    track: Track = untracked,
) -> Conversations:
    """Open a dataset of conversations and check every record; images and videos are not opened.

    Paths of images and videos are relative to the file that names them.
    `skip_bad`: leave bad records out, log the first five by name, and count them. `read_shard`: reads a tar.
    Raises DataError for a missing or damaged file, for the first bad record, and if no record is left.
    """
    files = [
        (read_shard if file.suffix == ".tar" else READERS[file.suffix.lower()])(file) for file in _find_files(path)
    ]
    rows, groups, bad = array("q"), array("Q"), 0
    whole = hashlib.blake2b(digest_size=16)
    for number, file in enumerate(files):
        whole.update(f"{file.path.name}\0{file.path.stat().st_size}\0".encode(errors="surrogatepass"))
        for row, record in track(file.scan(), f"checking {escape_name(file.path.name)}", file.count):
            try:
                if isinstance(record, InputError):
                    raise record
                sample = parse_record(record, file.path.parent)
            except InputError as error:
                if not skip_bad:
                    raise DataError(str(error)) from None
                bad += 1
                if bad <= NAMED:
                    logger.warning("left out %s", error)
                continue
            rows.append(number * _ROWS + row)
            group = hashlib.blake2b(sample.group.encode(errors="surrogatepass"), digest_size=8).digest()
            groups.append(int.from_bytes(group))
            whole.update(repr((sample.key, sample.turns, [item.name for item in sample.media])).encode())
    if bad:
        logger.warning("%s: left out %d bad samples of %d", escape_name(path), bad, bad + len(rows))
    if not rows:
        raise DataError(f"{escape_name(path)} has no valid conversation" + (f", but {bad} bad" * bool(bad)))
    return Conversations(
        files=tuple(files),
        rows=np.array(rows, np.int64),
        groups=np.array(groups, np.uint64),
        fingerprint=whole.hexdigest(),
        bad=bad,
    )


def _find_files(path: Path) -> list[Path]:
    """Return the files at a path: a file, or the Parquet files or shards of a directory; DataError if there are none.

    If files of several splits are there, only those of `train` are read.
    """
    if path.is_dir():
        for files in (path.glob("*.parquet"), (path / "data").glob("*.parquet"), path.glob("*.tar")):
            if found := _of_train(sorted(files)):
                return found
        if shards := shards_below(path, "train"):
            return shards
        raise DataError(f"{escape_name(path)} has no Parquet files and no tars of conversations; give a file")
    if not path.is_file():
        raise DataError(f"{escape_name(path)} does not exist; give a file or a directory of conversations")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{escape_name(path)} is not a file of conversations; known: {', '.join(READERS)}")
    return [path]


def _of_train(files: Sequence[Path]) -> list[Path]:
    """Return the files without those of other splits, judged by the first part of their names."""
    splits = [re.split(r"[-_.]", file.name)[0] for file in files]
    if train := [file for file, split in zip(files, splits, strict=True) if split in split_names("train")]:
        return train
    others = split_names("val") | split_names("test")
    return [file for file, split in zip(files, splits, strict=True) if split not in others]
