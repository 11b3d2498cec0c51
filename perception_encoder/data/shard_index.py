"""Where each sample of a WebDataset shard is, so that a tar on disk or at a URL is read at random.

One pass over a tar gives a table of the byte ranges of its samples' pictures, videos and texts. It is kept, as Parquet,
in the user's cache folder, under a name made of the shard's address and state: a shard that has changed is gone over
anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.data.captions import concept
from perception_encoder.data.sources import NEVER_TRAINED
from perception_encoder.datasets.labelled import UNSEEN_LABELS, UNSEEN_SOURCE
from perception_encoder.errors import DataError, MediaDecodeError, MissingExtraError
from perception_encoder.files import cache_directory, replacing, writing
from perception_encoder.formats.shards import split_member
from perception_encoder.formats.tars import TarEntry, read_entry, walk_tar
from perception_encoder.preprocess.media_types import SHARD_IMAGES, SHARD_VIDEOS
from perception_encoder.preprocess.source import escape_name, one_line

TEXTS = ("txt", "caption", "json")
MEDIA = {"picture": SHARD_IMAGES, "video": SHARD_VIDEOS}
PARTS = (*MEDIA, *TEXTS)
OPEN = 64  # tables of shards that are kept in memory
GUARDED = NEVER_TRAINED | {UNSEEN_SOURCE}  # sources of which training must not see all
_COLUMNS = ("key", "unseen", *(f"{part}_{name}" for part in PARTS for name in ("start", "size")))
_FORM = "4"  # of the table; part of its name
_PAUSES = (0.2, 1.0)  # seconds before a connection that broke off is tried again
_EXTRAS = {"http": ("aiohttp", "train"), "https": ("aiohttp", "train"), "s3": ("s3fs", "s3")}
_WHOLE = "its server sends whole files only; put simplecache:: before the URL, or download the shards"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ShardSummary:
    """What a shard holds, or why it cannot be read."""

    url: str
    size: int = 0
    """Of the tar, in bytes."""
    samples: Mapping[str, int] = field(default_factory=dict)
    """How many samples have which members: {"jpg json txt": 998, "jpg": 2}."""
    unseen: Mapping[str, int] = field(default_factory=dict)
    """Those of them whose label is one of the unseen classes."""
    sources: tuple[str, ...] = ()
    """Which of the `GUARDED` sources its samples are from."""
    fields: tuple[str, ...] = ()
    """Names in the first sample's JSON object."""
    problem: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]

    def pairs(self, texts: Collection[str], medium: str = "picture", guarded: bool = False) -> int:
        """Samples with a picture, or another of the `MEDIA`, and one of these `TEXTS`; guarded: of no unseen class."""
        unseen = self.unseen if guarded else {}
        parts = ((set(members.split()), count - unseen.get(members, 0)) for members, count in self.samples.items())
        return sum(count for members, count in parts if members & {*MEDIA[medium]} and members & {*texts})


@dataclass(frozen=True)
class ShardTable:
    """The byte ranges of a shard's pairs."""

    url: str
    keys: list[str]
    starts: np.ndarray
    """int64 (n, 5): first bytes of the `PARTS`; −1 where a sample lacks one."""
    sizes: np.ndarray

    def read(self, row: int, texts: Collection[str], medium: str = "picture") -> dict[str, bytes]:
        """A sample's picture (or video) and these texts, in one request; MediaDecodeError where that fails."""
        wanted = [at for at, part in enumerate(PARTS) if part in (medium, *texts) and self.starts[row, at] >= 0]
        starts, sizes = self.starts[row, wanted], self.sizes[row, wanted]
        first, last = int(starts.min()), int((starts + sizes).max())
        try:
            files, path = open_storage(self.url)
            data = _patiently(lambda: files.cat_file(path, start=first, end=last))
        except Exception as error:  # each kind of storage raises its own
            raise MediaDecodeError(self.name(row), f"cannot be read: {one_line(error)}") from error
        if len(data) != last - first:
            cut = len(data) < last - first
            raise MediaDecodeError(self.name(row), "is cut off: the shard ends early" if cut else _WHOLE)
        begins = starts - first
        return {PARTS[at]: data[b : b + s] for at, b, s in zip(wanted, begins, sizes, strict=True)}

    def name(self, row: int) -> str:
        """What messages call a sample."""
        return f"{self.url}/{escape_name(self.keys[row])}"


def summarize_shard(url: str) -> ShardSummary:
    """What a shard holds; gone over if it is new or has changed."""
    try:
        return _summary(pq.read_schema(_find_table(url)))
    except DataError as error:
        return ShardSummary(url=url, problem=str(error))


@lru_cache(maxsize=OPEN)
def load_table(url: str, texts: tuple[str, ...], medium: str = "picture", guarded: bool = False) -> ShardTable:
    """A shard's pairs, those that `ShardSummary.pairs` counts; DataError where that fails."""
    table = pq.read_table(_find_table(url))
    starts, sizes = (np.stack([table[f"{part}_{name}"].to_numpy() for part in PARTS], 1) for name in ("start", "size"))
    usable = (starts[:, PARTS.index(medium)] >= 0) & (starts[:, [PARTS.index(text) for text in texts]] >= 0).any(axis=1)
    if guarded:
        usable &= ~table["unseen"].to_numpy()
    return ShardTable(url, table["key"].filter(pa.array(usable)).to_pylist(), starts[usable], sizes[usable])


def open_storage(url: str) -> tuple[Any, str]:
    """The storage of a URL, as fsspec has it, and the path there; MissingExtraError, DataError without its package."""
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocols = re.findall(r"(?:^|::)(\w+)://", url)
        if needed := [_EXTRAS[each] for each in protocols if each in _EXTRAS]:
            raise MissingExtraError(*needed[0]) from error
        raise DataError(f"{url}: {one_line(error)}") from error
    return files, path


def _patiently(work: Callable[[], T]) -> T:
    """What `work` gives; where a connection breaks off it is tried again."""
    for pause in _PAUSES:
        try:
            return work()
        except (FileNotFoundError, PermissionError, ValueError, DataError):
            raise  # the same would come again
        except Exception:  # each kind of storage raises its own
            time.sleep(pause)
    return work()


def _find_table(url: str) -> Path:
    """The file of a shard's table, made if it is not there."""
    files, path = open_storage(url)
    try:
        size, state = _patiently(lambda: (files.size(path), _state(files, path)))
    except Exception as error:  # each kind of storage raises its own
        raise DataError(f"{url}: cannot be opened: {one_line(error.__cause__ or error)}") from error
    if size is None:
        raise DataError(f"{url}: its server does not say how large it is; download the shards")
    name = hashlib.sha256("\0".join((_FORM, url, str(size), state)).encode()).hexdigest()[:32]
    place = cache_directory("shards") / f"{name}.parquet"
    if not _is_sound(place):
        try:
            _patiently(lambda: _check_ranges(files, path, size))
            table = _patiently(lambda: _make_table(url, size))
        except DataError as error:
            raise DataError(f"{url}: {error}") from None
        except Exception as error:  # each kind of storage raises its own
            raise DataError(f"{url}: cannot be read: {one_line(error)}") from error
        with writing(place, note="set XDG_CACHE_HOME to a folder for caches"), replacing(place) as temporary:
            pq.write_table(table, temporary, write_page_checksum=True)
    return place


def _is_sound(place: Path) -> bool:
    """Whether a shard's table is there, with all its columns, and whole by the checksums of its pages."""
    try:
        table = pq.read_table(place, page_checksum_verification=True)
        summary = _summary(table.schema)
        return set(table.column_names) == set(_COLUMNS) and sum(summary.samples.values()) == len(table)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return False


def _state(files: Any, path: str) -> str:
    """What is another when a file is; fsspec takes what is on the web for unchanging."""
    if "http" not in files.protocol:
        return str(files.ukey(path))
    told = files.info(path)
    return "\0".join([files.ukey(path), *(told[name] for name in ("ETag", "Last-Modified") if name in told)])


def _check_ranges(files: Any, path: str, size: int) -> None:
    """DataError where a web server cannot send a part of a file; nothing more than a byte is fetched to see it."""
    if "http" not in files.protocol or not size:
        return
    try:
        with files.open(path, "rb", cache_type="none", block_size=1) as stream:
            stream.seek(size - 1)
            stream.read(1)
    except ValueError:
        raise DataError(_WHOLE) from None


def _make_table(url: str, size: int) -> pa.Table:
    """Go over a tar; DataError if it is none, or is damaged."""
    keys, ranges, unseen = list[str](), list[list[tuple[int, int]]](), list[bool]()
    samples, of_unseen, sources = Counter[str](), Counter[str](), set[str]()
    fields: tuple[str, ...] | None = None
    with fsspec.open(url, "rb") as stream:
        for key, members in groupby(_entries(stream, size), lambda member: split_member(member.name)[0]):
            parts = {split_member(member.name)[1]: member for member in members}
            said = _object(stream, parts["json"]) if "json" in parts else {}
            fields = tuple(said) if fields is None and "json" in parts else fields
            sources |= GUARDED & {str(said.get("source"))}
            unseen.append("label" in said and concept(said) in UNSEEN_LABELS)
            samples[" ".join(sorted(parts))] += 1
            of_unseen[" ".join(sorted(parts))] += unseen[-1]
            media = [next((parts[name] for name in names if name in parts), None) for names in MEDIA.values()]
            found = [*media, *(parts.get(name) for name in TEXTS)]
            keys.append(key)
            if odd := next((each for each in found if each is not None and each.problem), None):
                raise DataError(f"{escape_name(odd.name)} {odd.problem}")
            ranges.append([(-1, 0) if each is None else (each.offset, each.size) for each in found])
    summary = ShardSummary(
        url=url,
        size=size,
        samples=dict(samples.most_common()),
        unseen=dict(+of_unseen),
        sources=tuple(sorted(sources)),
        fields=fields or (),
    )
    numbers = np.array(ranges, dtype=np.int64).reshape(len(keys), len(PARTS), 2)
    columns = {"key": pa.array(keys, pa.string()), "unseen": pa.array(unseen, pa.bool_())}
    for at, part in enumerate(PARTS):
        columns |= {f"{part}_start": pa.array(numbers[:, at, 0]), f"{part}_size": pa.array(numbers[:, at, 1])}
    return pa.table(columns).replace_schema_metadata({"shard": json.dumps(asdict(summary))})


def _entries(stream: BinaryIO, size: int) -> Iterator[TarEntry]:
    try:
        yield from walk_tar(stream, size)
    except DataError as error:
        raise DataError(f"not a readable tar file: {error}") from error


def _object(stream: BinaryIO, member: TarEntry) -> dict[str, Any]:
    """What a sample's JSON says; nothing where it is no object, which is said when the sample is read."""
    content = read_entry(stream, member)
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _summary(schema: pa.Schema) -> ShardSummary:
    said = json.loads(schema.metadata[b"shard"])
    return ShardSummary(**said | {name: tuple(said[name]) for name in ("sources", "fields")})
