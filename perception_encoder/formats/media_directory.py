"""Pictures and videos on disk that tables and annotations refer to, by a path or by a bare name."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError
from perception_encoder.preprocess.media_types import MEDIA_SUFFIXES
from perception_encoder.preprocess.source import one_line


@dataclass(frozen=True)
class Clip:
    """A part of a video."""

    path: Path
    start: float
    """Seconds."""
    end: float | None = None


Source = bytes | Path | Clip
"""A picture's or video's content, its file, or a part of it; whether the file is there shows when it is opened."""


class MediaFolder:
    """A folder whose files are looked up by path, or by name without suffix, however deep they lie."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where there is no such folder."""
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder; give the one that holds the pictures or videos")
        self.folder = folder

    def find(self, *names: str) -> Path:
        """The file of the first of these names that there is; else where the first one should be."""
        for name in names:
            direct = self.folder / name
            if os.path.isfile(direct):  # not `Path.is_file`, which raises for a name that is too long
                return direct
            if Path(name).name in self._by_name:
                return self._by_name[Path(name).name]
        return self.folder / names[0]

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        """Files by their names with and without suffix; the first in order where several have one name."""
        found: dict[str, Path] = {}
        for path in list_media(self.folder):
            for name in (path.name, path.stem):
                found.setdefault(name, path)
        return found


def list_media(folder: Path) -> list[Path]:
    """The pictures and videos in a folder by their suffixes, those in folders inside it too; hidden ones left out."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV, JSONL or Parquet file as dicts, column names in lower case.

    Raises DataError where it cannot be read or has no rows.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            rows = pq.read_table(path).to_pylist()
        elif suffix in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))
    except (OSError, ValueError, OverflowError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table: {one_line(error)}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has no rows; give a CSV, TSV, JSONL or Parquet file with named columns")
    return [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]


def find_column(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path, what: str) -> str:
    """The first of some column names that a table has; DataError under the table's path shows those it has."""
    for name in names:
        if name in rows[0]:
            return name
    wanted, there = " or ".join(map(repr, names)), ", ".join(map(repr, rows[0]))
    raise DataError(f"{path} has no column {wanted} for {what}, but {there}")


def read_json(path: Path) -> Any:
    """A JSON file's content; DataError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {one_line(error)}") from error
