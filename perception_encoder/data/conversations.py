"""Open conversations for training language models: LLaVA's JSONL, tables of questions, the hub's Parquet, shards.

    DATA.jsonl, DATA.json                 `image|images|video|videos` (paths) and `conversations`, `messages` or `texts`
    DATA.csv, .tsv, .jsonl, .parquet      `image|images|video`, `question`, `answer`: one question per row
    DIRECTORY/[data/][train-]*.parquet    the hub's: images in cells, and any of these fields
    DIRECTORY/[train/]*.tar               KEY.jpg or KEY.mp4 beside KEY.json with a conversation

One pass over all files checks each record; after that only positions stay in memory, and a sample is parsed on
access. An error names the file and the line.
"""

from __future__ import annotations

import hashlib
import logging
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perception_encoder.data.conversation_files import (
    ConversationFile,
    Expand,
    JsonRecords,
    ParquetRecords,
    ShardRecords,
    TableRecords,
)
from perception_encoder.data.conversation_records import (
    ConversationSample,
    Record,
    is_question_row,
    parse_record,
)
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.formats.shards import shards_below, split_names
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

LINES, TABLES, PARQUET = (".jsonl", ".ndjson"), (".csv", ".tsv"), (".parquet", ".pq")
PREFERRED = ("conversations", "train", "metadata")
"""Preferred table names (without suffix) in a directory with several tables, best first."""
QUESTIONS_JOINED = 8
"""Maximum number of rows about one image to join into a conversation."""
NAMED = 5
"""Maximum number of bad records to log by name."""
_ROWS = 1 << 40
"""Exceeds the number of rows of any file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversations:
    """Samples of a dataset, or a part of it, read on access: `len(data)`, `data[i]`, `for sample in data`.

    It can be pickled, and threads may share it. Reading raises InputError if a file has changed.
    """

    files: tuple[ConversationFile, ...] = field(repr=False)
    media: Path | None
    """Base directory of the media paths; None for the directory of each file."""
    rows: np.ndarray = field(repr=False)
    """int64: file × 2^40 + row; the rows of a sample are consecutive."""
    starts: np.ndarray = field(repr=False)
    """int64 (n + 1,): where each sample starts in `rows`, and the end."""
    groups: np.ndarray = field(repr=False)
    """uint64 (n,): a hash of a sample's media, or of its key if it names no files."""
    fingerprint: str
    """A hash of the files' names and sizes and of all samples, independent of the dataset's directory."""
    bad: int = 0
    """Number of records left out."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> ConversationSample:
        """Return the sample at an index; IndexError beyond the last one."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        sample, *others = [self._read(row) for row in self.rows[self.starts[index] : self.starts[index + 1]]]
        for other in others:
            sample = sample.joined(other)
        return sample

    def __iter__(self) -> Iterator[ConversationSample]:
        return (self[index] for index in range(len(self)))

    @property
    def sizes(self) -> list[int]:
        """Numbers of consecutive samples in a file or row group; shuffle and read these together."""
        first = self.rows[self.starts[:-1]]
        owners = first // _ROWS
        parts = np.zeros(len(first), np.int64)
        for number, file in enumerate(self.files):
            in_file = owners == number
            parts[in_file] = np.searchsorted(file.edges, first[in_file] % _ROWS, "right")
        changes = np.flatnonzero((np.diff(owners) != 0) | (np.diff(parts) != 0)) + 1
        return [int(size) for size in np.diff([0, *changes, len(first)])]

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
        sizes = np.diff(self.starts)
        digest = hashlib.blake2b(f"{self.fingerprint} {name}".encode(), digest_size=16).hexdigest()
        return replace(
            self,
            rows=self.rows[np.repeat(selected, sizes)],
            starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[selected])]),
            groups=self.groups[selected],
            fingerprint=digest,
        )

    def _read(self, row: int) -> ConversationSample:
        file = self.files[int(row) // _ROWS]
        return parse_record(file.read(int(row) % _ROWS), self.media or file.path.parent)


def open_conversations(
    path: Path,
    *,
    media: Path | None = None,
    skip_bad: bool = False,
    join: bool = True,
    expand: Expand | None = None,
    track: Track = untracked,
) -> Conversations:
    """Open a dataset of conversations and check every record; images and videos are not opened.

    `media`: the base directory of image and video paths, by default the directory of the file that names them.
    `skip_bad`: leave bad records out, log the first five by name, and count them. `join`: join up to eight rows with a
    question about the same image file into one conversation; otherwise, and for images inside tables, each row is one.
    `expand`: makes conversations from the JSON of a tar's sample that has none.
    Raises DataError for a missing or damaged file, for the first bad record, and if no record is left.
    """
    check = _Check(media, skip_bad, join)
    files = _find_files(path, expand)
    for number, file in enumerate(files):
        check.digest.update(f"{file.path.name}\0{file.path.stat().st_size}\0".encode(errors="surrogatepass"))
        for row, record in track(file.scan(), f"checking {escape_name(file.path.name)}", file.count):
            check.add(number * _ROWS + row, record, file.path.parent)
    if check.bad:
        logger.warning("%s: left out %d bad samples of %d", escape_name(path), check.bad, check.bad + len(check.rows))
    if not check.rows:
        raise DataError(f"{escape_name(path)} has no valid conversation" + (f", but {check.bad} bad" * bool(check.bad)))
    return check.result(files)


def _find_files(path: Path, expand: Expand | None) -> list[ConversationFile]:
    """Return the files at a path: a file, or a directory with Parquet files, shards or one table.

    If files of several splits are there, only those of `train` are read. Raises DataError if there is none, or if
    several tables could be meant.
    """
    if not path.is_dir():
        return [_open(path, expand)]
    for directory in (path, path / "data"):
        if files := _of_train(sorted(directory.glob("*.parquet"))):
            return [ParquetRecords(file) for file in files]
    if shards := _of_train(sorted(path.glob("*.tar"))) or shards_below(path, "train"):
        return [ShardRecords(shard, expand) for shard in shards]
    suffixes = (*LINES, ".json", *TABLES)
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    for name in PREFERRED:
        tables = [file for file in tables if file.stem == name] or tables
    if len(tables) == 1:
        return [_open(tables[0], expand)]
    if tables:
        names = ", ".join(escape_name(file.name) for file in tables[:9])
        raise DataError(f"{escape_name(path)} has several tables: {names}; give the path of one")
    if (path / "train").is_dir():
        return _find_files(path / "train", expand)
    raise DataError(f"{escape_name(path)} has no conversations: no Parquet files, tars, {', '.join(suffixes)}")


def _of_train(files: Sequence[Path]) -> list[Path]:
    """Return the files without those of other splits, judged by the first part of their names."""
    splits = [re.split(r"[-_.]", file.name)[0] for file in files]
    if train := [file for file, split in zip(files, splits, strict=True) if split in split_names("train")]:
        return train
    others = split_names("val") | split_names("test")
    return [file for file, split in zip(files, splits, strict=True) if split not in others]


def _open(path: Path, expand: Expand | None) -> ConversationFile:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{escape_name(path)} does not exist; give a file or a directory of conversations")
    if suffix in PARQUET:
        return ParquetRecords(path)
    if suffix == ".tar":
        return ShardRecords(path, expand)
    if suffix in TABLES:
        return TableRecords(path)
    if suffix not in (*LINES, ".json"):
        known = ", ".join((*LINES, ".json", *TABLES, *PARQUET, ".tar"))
        raise DataError(f"{escape_name(path)} is not a file of conversations; known: {known}")
    return JsonRecords(path)


class _Check:
    """One pass over all records."""

    def __init__(self, media: Path | None, skip_bad: bool, join: bool) -> None:
        self.media, self.skip_bad, self.join = media, skip_bad, join
        self.rows, self.groups, self.joinable, self.bad = array("q"), array("Q"), bytearray(), 0
        self.digest = hashlib.blake2b(str(join).encode(), digest_size=16)

    def add(self, row: int, record: Record | InputError, directory: Path) -> None:
        """Add a record, or count it as bad; DataError unless bad records are skipped."""
        try:
            if isinstance(record, InputError):
                raise record
            sample = parse_record(record, self.media or directory)
        except InputError as error:
            if not self.skip_bad:
                raise DataError(str(error)) from None
            self.bad += 1
            if self.bad <= NAMED:
                logger.warning("left out %s", error)
            return
        self.rows.append(row)
        self.groups.append(_hash(sample.group))
        self.joinable.append(self.join and is_question_row(record.fields) and sample.joinable)
        content = (sample.key, sample.turns, [item.name for item in sample.media])
        self.digest.update(repr(content).encode())

    def result(self, files: Sequence[ConversationFile]) -> Conversations:
        """Return the samples; joined rows replace their first row."""
        rows, groups = np.array(self.rows, np.int64), np.array(self.groups, np.uint64)
        order, starts = _join(groups, np.frombuffer(self.joinable, np.bool_))
        return Conversations(
            files=tuple(files),
            media=self.media,
            rows=rows[order],
            starts=np.append(starts, len(rows)),
            groups=groups[order][starts],
            fingerprint=self.digest.hexdigest(),
            bad=self.bad,
        )


def _join(groups: np.ndarray, joinable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that puts the rows of a group after its first one, and where each sample starts."""
    count = len(groups)
    owners, at = np.arange(count), np.flatnonzero(joinable)
    _, first, inverse = np.unique(groups[at], return_index=True, return_inverse=True)
    owners[at] = at[first][inverse]
    order = np.argsort(owners, kind="stable")
    begins = np.flatnonzero(np.diff(owners[order], prepend=-1))
    positions = np.arange(count) - np.repeat(begins, np.diff(np.append(begins, count)))
    return order, np.flatnonzero(positions % QUESTIONS_JOINED == 0)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())
