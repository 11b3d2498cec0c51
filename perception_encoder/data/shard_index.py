"""Index the samples of a WebDataset shard for random access, on disk or at a URL.

One pass over a tar makes a table of the byte ranges of its samples' images, videos and texts. It is cached as Parquet
in the user's cache directory, keyed by the shard's address and state: a shard that has changed is indexed again.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError, MediaDecodeError, MissingExtraError, one_line
from perception_encoder.files import cache_directory, cached_by_file, digest, replacing, writing
from perception_encoder.formats.shards import split_member
from perception_encoder.formats.tars import check_entry, walk_tar
from perception_encoder.preprocess.source import SHARD_IMAGES, SHARD_VIDEOS, escape_name

TEXTS = ("txt", "caption", "json")
MEDIA = {"image": SHARD_IMAGES, "video": SHARD_VIDEOS}
PARTS = (*MEDIA, *TEXTS)
_COLUMNS = {"key", "members", *(f"{part}_{name}" for part in PARTS for name in ("start", "size"))}
_FORM = "6"  # version of the table; part of its name
RETRY_PAUSES = (0.2, 1.0)  # seconds before a broken connection is retried
_EXTRAS = {"http": ("aiohttp", "train"), "https": ("aiohttp", "train"), "s3": ("s3fs", "s3")}
_WHOLE = "its server only sends whole files; put simplecache:: before the URL, or download the shards"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """Content of a shard, or why it cannot be read."""

    url: str
    size: int = 0  # size of the tar in bytes
    samples: Mapping[str, int] = field(default_factory=dict)
    """Numbers of samples by their members: {"jpg json txt": 998, "jpg": 2}."""
    problem: str | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def pairs(self, texts: Collection[str], medium: str = "image") -> int:
        """Count samples with one of the `MEDIA` and one of these `TEXTS`."""
        parts = ((set(members.split()), count) for members, count in self.samples.items())
        return sum(count for members, count in parts if members & {*MEDIA[medium]} and members & {*texts})


@dataclass(frozen=True)
class ShardTable:
    """Byte ranges of a shard's pairs."""

    url: str
    keys: list[str]
    starts: np.ndarray  # int64 (n, 5): first bytes of the `PARTS`; −1 if a sample lacks one
    sizes: np.ndarray

    def read(self, row: int, texts: Collection[str], medium: str = "image") -> dict[str, bytes]:
        """Read a sample's image (or video) and these texts in one request; MediaDecodeError if that fails."""
        columns = [at for at, part in enumerate(PARTS) if part in (medium, *texts) and self.starts[row, at] >= 0]
        starts, sizes = self.starts[row, columns], self.sizes[row, columns]
        first, last = int(starts.min()), int((starts + sizes).max())
        try:
            files, path = open_storage(self.url)
            data = _patiently(lambda: files.cat_file(path, start=first, end=last))
        except Exception as error:  # each kind of storage raises its own errors
            raise MediaDecodeError(self.name(row), f"cannot be read: {one_line(error)}") from error
        if len(data) != last - first:
            cut = len(data) < last - first
            raise MediaDecodeError(self.name(row), "is cut off: the shard ends early" if cut else _WHOLE)
        begins = starts - first
        return {PARTS[at]: data[b : b + s] for at, b, s in zip(columns, begins, sizes, strict=True)}

    def name(self, row: int) -> str:
        return f"{self.url}/{escape_name(self.keys[row])}"


def summarize_shard(url: str) -> ShardSummary:
    """Return a shard's summary, indexing it first if it is new or has changed."""
    try:
        table, size = _open_table(url)
    except DataError as error:
        return ShardSummary(url=url, problem=str(error))
    return ShardSummary(url=url, size=size, samples=dict(Counter(table["members"].to_pylist()).most_common()))


@cached_by_file(64)
def load_table(url: str, texts: tuple[str, ...], medium: str = "image") -> ShardTable:
    """Load the byte ranges of a shard's pairs; DataError if the shard cannot be read."""
    table, _ = _open_table(url)
    starts, sizes = (np.stack([table[f"{part}_{name}"].to_numpy() for part in PARTS], 1) for name in ("start", "size"))
    usable = (starts[:, PARTS.index(medium)] >= 0) & (starts[:, [PARTS.index(text) for text in texts]] >= 0).any(axis=1)
    return ShardTable(url, table["key"].filter(pa.array(usable)).to_pylist(), starts[usable], sizes[usable])


def open_storage(url: str) -> tuple[Any, str]:
    """Return a URL's fsspec file system and path; MissingExtraError or DataError without the package it needs."""
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        for protocol in re.findall(r"(?:^|::)(\w+)://", url):
            if protocol in _EXTRAS:
                raise MissingExtraError(*_EXTRAS[protocol]) from error
        raise DataError(f"{url}: {one_line(error)}") from error
    return files, path


def _patiently(work: Callable[[], T]) -> T:
    """Call `work`, retrying if a connection breaks."""
    for pause in RETRY_PAUSES:
        try:
            return work()
        except (FileNotFoundError, PermissionError, ValueError, DataError):
            raise  # the same would come again
        except Exception:  # each kind of storage raises its own errors
            time.sleep(pause)
    return work()


def _open_table(url: str) -> tuple[pa.Table, int]:
    """Return a shard's table, made and cached if it is missing or damaged, and the shard's size."""
    files, path = open_storage(url)
    try:
        size, state = _patiently(lambda: (files.size(path), _state(files, path)))
    except Exception as error:  # each kind of storage raises its own errors
        raise DataError(f"{url}: cannot be opened: {one_line(error.__cause__ or error)}") from error
    if size is None:
        raise DataError(f"{url}: its server does not state the size; download the shards")
    cached = cache_directory("shards") / f"{digest(_FORM, url, size, state)}.parquet"
    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):  # missing or damaged
        table = pq.read_table(cached, page_checksum_verification=True)
        if set(table.column_names) == _COLUMNS:
            return table, size
    try:
        _patiently(lambda: _check_ranges(files, path, size))
        table = _patiently(lambda: _make_table(url, size))
    except Exception as error:  # each kind of storage raises its own errors
        raise DataError(f"{url}: cannot be read: {one_line(error)}") from error
    note = "set XDG_CACHE_HOME to a directory for caches"
    with writing(cached, note=note), replacing(cached) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    return table, size


def _state(files: Any, path: str) -> str:
    """Return a value that changes with the file; fsspec assumes that files on the web never change."""
    if "http" not in files.protocol:
        return str(files.ukey(path))
    info = files.info(path)
    return "\0".join([files.ukey(path), *(info[name] for name in ("ETag", "Last-Modified") if name in info)])


def _check_ranges(files: Any, path: str, size: int) -> None:
    """Raise DataError if a web server cannot send parts of a file; fetches one byte to find out."""
    if "http" in files.protocol and size:
        try:
            with files.open(path, "rb", cache_type="none", block_size=1) as stream:
                stream.seek(size - 1)
                stream.read(1)
        except ValueError:
            raise DataError(_WHOLE) from None


def _make_table(url: str, size: int) -> pa.Table:
    keys, members, ranges = list[str](), list[str](), list[list[tuple[int, int]]]()
    with fsspec.open(url, "rb") as stream:
        for key, entries in groupby(walk_tar(stream, size), lambda entry: split_member(entry.name)[0]):
            parts = {split_member(entry.name)[1]: entry for entry in entries}
            media = [next((parts[name] for name in names if name in parts), None) for names in MEDIA.values()]
            used = [*media, *(parts.get(name) for name in TEXTS)]
            for entry in filter(None, used):
                check_entry(entry)
            keys.append(key)
            members.append(" ".join(sorted(parts)))
            ranges.append([(-1, 0) if entry is None else (entry.offset, entry.size) for entry in used])
    numbers = np.array(ranges, dtype=np.int64).reshape(len(keys), len(PARTS), 2)
    columns = {"key": pa.array(keys, pa.string()), "members": pa.array(members, pa.string())}
    for at, part in enumerate(PARTS):
        columns |= {f"{part}_start": pa.array(numbers[:, at, 0]), f"{part}_size": pa.array(numbers[:, at, 1])}
    return pa.table(columns)
