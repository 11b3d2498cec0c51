"""Read and write tables of videos by key, SPLIT/KEY, as Parquet, CSV or JSONL: metadata, scores, selections."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import replacing, write_text, writing
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.tables import read_table

SUFFIXES = (".parquet", ".csv", ".jsonl")


def table_key(record: VideoRecord) -> str:
    """Return a video's name in tables: SPLIT/KEY."""
    return f"{record.split}/{record.key}" if record.split else record.key


def describe_record(record: VideoRecord) -> dict[str, Any]:
    """Return a video's fields and the location of its bytes as a table row."""
    return {
        "key": table_key(record),
        "tar": str(record.video.tar),
        "offset": record.video.offset,
        "size": record.video.size,
        "model_caption": record.model_caption,
        "refined_caption": record.refined_caption,
        "refined_by": record.refined_by,
        "category": record.category,
        "seconds": record.duration,
        "frame_rate": record.frame_rate,
    }


def write_video_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal columns in the format of the suffix; ConfigError for an unsupported one."""
    check_table_path(path)
    if path.suffix == ".parquet":
        with writing(path), replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(list(rows)), temporary)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["key"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    else:
        write_text(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))


def check_table_path(path: Path) -> None:
    """Raise ConfigError for an unsupported suffix."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} has an unsupported format; use a name that ends in .parquet, .csv or .jsonl")


def read_video_table(path: Path, *columns: str) -> dict[str, dict[str, Any]]:
    """Read rows by `key`; DataError for a missing column or a repeated key."""
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(read_table(path), start=1):
        for column in ("key", *columns):
            if row.get(column) is None:
                raise DataError(f"{path}: row {number}: `{column}` is missing")
        if not isinstance(row["key"], str) or row["key"] in rows:
            raise DataError(f"{path}: row {number}: the key {quoted(row['key'])} is not a string, or occurs twice")
        rows[row["key"]] = row
    return rows
