"""Tables of what is known about each video by its key: scores, selections and categories, as Parquet, CSV or JSONL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import replacing, write_text, writing
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.tables import read_table

OUTCOME_SUFFIXES = (".parquet", ".csv", ".jsonl")


def write_outcomes(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same columns, in the format of the suffix; ConfigError for another one."""
    check_outcome_path(path)
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


def check_outcome_path(path: Path) -> None:
    """Raise ConfigError for a suffix that is unsupported."""
    if path.suffix not in OUTCOME_SUFFIXES:
        raise ConfigError(f"{path} is a table of an unknown format; give a name that ends in .parquet, .csv or .jsonl")


def read_outcomes(path: Path, *columns: str) -> dict[str, dict[str, Any]]:
    """Read rows by their `key`; DataError if one lacks a column, or a key is there twice."""
    outcomes: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(read_table(path), start=1):
        for column in ("key", *columns):
            if row.get(column) is None:
                raise DataError(f"{path}: row {number}: `{column}` is missing")
        if not isinstance(row["key"], str) or row["key"] in outcomes:
            raise DataError(f"{path}: row {number}: the key {quoted(row['key'])} is not a text, or is there twice")
        outcomes[row["key"]] = row
    return outcomes
