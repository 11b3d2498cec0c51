"""Read and write tables of videos by key, SPLIT/KEY: metadata, scores, selections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import replacing, replacing_new, writing
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.shards import json_bytes, present_fields, write_members
from perception_encoder.formats.tables import read_table


def table_key(record: VideoRecord) -> str:
    """Return a video's name in tables: SPLIT/KEY."""
    return f"{record.split}/{record.key}" if record.split else record.key


def write_video_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal columns as Parquet or CSV; ConfigError for another suffix."""
    check_table_path(path)
    table = pa.Table.from_pylist(list(rows))
    with writing(path), replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary, write_page_checksum=True)
        else:
            pyarrow.csv.write_csv(table, temporary)


def check_table_path(path: Path) -> None:
    """Raise ConfigError for an unsupported suffix."""
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{path} has an unsupported format; use a name that ends in .parquet or .csv")


def read_video_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read rows by `key`; DataError for a missing or repeated key."""
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(read_table(path), start=1):
        key = row.get("key")
        if not isinstance(key, str) or key in rows:
            raise DataError(f"{path}: row {number}: the key {quoted(key)} is not a string, or occurs twice")
        rows[key] = row
    return rows


TEXT_FIELDS = (
    "human_caption",
    "refined_caption",
    "refined_by",
    "model_caption",
    "category",
    "category_name",
    "description",
)
"""Text fields of every JSON; empty if a video lacks them."""
CAPTIONS = ("human_caption", "refined_caption", "summary", "model_caption")
"""Fields of captions, the best first; `summary` is that of `pe engine run`."""
PER_TAR = 500


@dataclass(frozen=True)
class OutputVideo:
    """A video to write."""

    key: str
    extension: str
    read: Callable[[], bytes]
    """Returns the video's bytes; called at the time of writing."""
    metadata: Mapping[str, Any]
    split: str

    @classmethod
    def of(cls, record: VideoRecord, metadata: Mapping[str, Any], split: str) -> OutputVideo:
        """Return a video of another dataset with new metadata."""
        return cls(record.key, record.extension, lambda: record.video.read(record.where), metadata, split)


def write_dataset(out: Path, videos: Iterable[OutputVideo], per_tar: int = PER_TAR) -> dict[str, int]:
    """Write a dataset with `write_tars` into a new or empty directory, at one stroke; OutputError for another one."""
    with writing(out), replacing_new(out) as directory:
        return write_tars(directory, videos, per_tar)


def write_tars(out: Path, videos: Iterable[OutputVideo], per_tar: int = PER_TAR) -> dict[str, int]:
    """Write videos, which must be ordered by split; return the number of videos per split."""
    counts: dict[str, int] = {}
    for split, group in groupby(videos, key=lambda video: video.split):
        rest, number = iter(group), 0
        while part := list(islice(rest, per_tar)):
            path = out / (split or "train") / f"{number:06}.tar"
            counts[split] = counts.get(split, 0) + write_members(path, _members(part)) // 3
            number += 1
    return counts


def _members(videos: Iterable[OutputVideo]) -> Iterator[tuple[str, bytes]]:
    for video in videos:
        yield f"{video.key}.{video.extension}", video.read()
        yield f"{video.key}.json", json_bytes(present_fields(video.metadata, TEXT_FIELDS))
        texts = (str(video.metadata.get(name) or "").strip() for name in CAPTIONS)
        yield f"{video.key}.txt", next(filter(None, texts), "").encode(errors="backslashreplace")
