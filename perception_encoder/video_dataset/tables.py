"""Read and write tables of videos by key, SPLIT/KEY: metadata, scores, selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.entries import quoted
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
            pq.write_table(table, temporary)
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
