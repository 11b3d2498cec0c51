"""Open conversations for training language models: LLaVA's files, tables of questions, the hub's Parquet, shards.

One pass over all files checks each record (see `conversation_records`); after that a sample is parsed on access.
"""

from __future__ import annotations

import hashlib
import logging
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perception_encoder.data.conversation_files import (
    ConversationFile,
    JsonLines,
    ParquetRecords,
    ShardRecords,
    StoredRecords,
)
from perception_encoder.data.conversation_records import ConversationSample, parse_record
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.files import digest
from perception_encoder.formats.shards import shards_below, split_names
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

READERS: dict[str, Callable[[Path], ConversationFile]] = {
    ".jsonl": JsonLines,
    ".json": StoredRecords,
    ".csv": StoredRecords,
    ".tsv": StoredRecords,
    ".parquet": ParquetRecords,
    ".tar": ShardRecords,
}
"""How a file is read, by suffix."""
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
        return parse_record(self.files[file].read(row), self.media or self.files[file].path.parent)

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
    media: Path | None = None,
    skip_bad: bool = False,
    read_shard: Callable[[Path], ConversationFile] = ShardRecords,
    track: Track = untracked,
) -> Conversations:
    """Open a dataset of conversations and check every record; images and videos are not opened.

    `media`: the base directory of image and video paths, by default the directory of the file that names them.
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
                sample = parse_record(record, media or file.path.parent)
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
        media=media,
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
