"""Rows of CSV, Parquet and JSONL files that name pictures, videos or texts, read one after the other."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import InputError
from perception_encoder.preprocess.source import escape_name, one_line

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson"})

# fmt: off
PATH_COLUMNS = (
    "path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "video_path", "image", "video",
    "url", "image_url", "video_url",
)
"""Columns that name a picture or video: the first of these that a table has, in upper or lower case."""
# fmt: on
TEXT_COLUMNS = ("text", "caption")


@dataclass(frozen=True)
class Row:
    """What a table says of one item; it has a path, a text, or both."""

    path: str | None = None
    start: float | None = None
    end: float | None = None
    text: str | None = None
    id: str | None = None


def read_rows(path: Path) -> Iterator[Row | InputError]:
    """Yield the rows of a table, and an error in place of each that cannot be read, or of the whole table."""
    name, suffix = escape_name(path), path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            yield from _read_parquet(path, name)
        elif suffix in (".jsonl", ".ndjson"):
            yield from _read_jsonl(path, name)
        else:
            yield from _read_csv(path, name, "\t" if suffix == ".tsv" else ",")
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        yield InputError(name, f"cannot be read: {one_line(error)}")


def _read_csv(path: Path, name: str, delimiter: str) -> Iterator[Row | InputError]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        if error := _lacks_columns(reader.fieldnames or (), name):
            yield error
            return
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                yield InputError(f"{name}:{reader.line_num + 1}", one_line(problem))
                continue
            yield _row(cells, f"{name}:{reader.line_num}")


def _read_jsonl(path: Path, name: str) -> Iterator[Row | InputError]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            try:
                cells = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError) as error:
                yield InputError(where, f"is no JSON: {one_line(error)}")
                continue
            if cells is None:
                continue
            if not isinstance(cells, dict):
                yield InputError(where, "is no JSON object")
                continue
            if number == 1 and (lacking := _lacks_columns(cells, name)):
                yield lacking
                return
            yield _row(cells, where)


def _read_parquet(path: Path, name: str) -> Iterator[Row | InputError]:
    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        columns = table.schema_arrow.names
        if error := _lacks_columns(columns, name):
            yield error
            return
        wanted = {*PATH_COLUMNS, *TEXT_COLUMNS, "start", "end", "id"}
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[each for each in columns if each.lower() in wanted]):
            for cells in batch.to_pylist():
                number += 1
                yield _row(cells, f"{name}:{number}")


def _lacks_columns(columns: Iterable[str], name: str) -> InputError | None:
    if {column.lower() for column in columns} & {*PATH_COLUMNS, *TEXT_COLUMNS}:
        return None
    present = ", ".join(map(repr, columns)) or "none"
    return InputError(
        name, f"has no column 'path' (or 'file', 'image', 'video', 'url', 'text', …), but {present[:200]}"
    )


def _row(cells: dict[Any, Any], where: str) -> Row | InputError:
    """The row of these cells; `where` names it in errors."""
    values = {key.lower(): value for key, value in cells.items() if isinstance(key, str) and value not in (None, "")}
    path = next((values[column] for column in PATH_COLUMNS if column in values), None)
    text = next((values[column] for column in TEXT_COLUMNS if column in values), None)
    for value in (path, text):
        if value is not None and not isinstance(value, str):
            return InputError(where, f"its path or text is of type {type(value).__name__}, no string")
    if path is None and text is None:
        return InputError(where, "has neither a path nor a text")
    times: dict[str, float | None] = {}
    for column in ("start", "end"):
        try:
            seconds = float(values.get(column, "nan"))
        except (TypeError, ValueError, OverflowError):
            return InputError(where, f"its {column} is {values[column]!r}, no number of seconds")
        times[column] = None if math.isnan(seconds) else seconds
    return Row(path, times["start"], times["end"], text, str(values["id"]) if "id" in values else None)
