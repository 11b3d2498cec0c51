"""Read CSV, TSV, Parquet and JSONL files, where bad rows become errors, images in Parquet cells, and LanceDB tables."""

from __future__ import annotations

import csv
import math
import os
import re
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError, InputError, MediaDecodeError, OutputError, needs_extra, one_line
from perception_encoder.files import cached_by_file
from perception_encoder.formats.shards import split_names
from perception_encoder.preprocess.source import escape_name
from perception_encoder.records import parse_json

if TYPE_CHECKING:
    from lancedb.db import DBConnection

# fmt: off
PATH_COLUMNS = (
    "path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "video_path", "image", "video",
    "url", "image_url", "video_url",
)
"""Columns that name an image or video: the first one present is read, in any case."""
# fmt: on
TEXT_COLUMNS = ("text", "caption", "sentence", "captions")
"""Columns of captions and other texts: the first one present is read, in any case."""
LABEL_COLUMNS = ("label", "class", "category", "wnid")
"""Columns of classes."""
MEDIA_COLUMNS = ("image", "images", "video")
"""Columns of the hub's Parquet files that hold the content of images and videos."""
DEPTHS = ("", "*/", "*/*/")
"""Subdirectories of a dataset in which to look for files."""
_NAMED = frozenset({*PATH_COLUMNS, *TEXT_COLUMNS})
_READ = _NAMED | {"start", "end", "id"}

Cells = tuple[str, dict[str, Any]]
"""A row's name in errors, and its cells by column."""


@dataclass(frozen=True)
class Row:
    """One item of a table, with a path, a text, or both."""

    path: str | None = None
    start: float | None = None
    end: float | None = None
    text: str | None = None
    id: str | None = None


def read_rows(path: Path) -> Iterator[Row | InputError]:
    """Yield the rows that name images, videos or texts, or an error per bad row or for the whole table."""
    for cells in iterate_table(path, needs_media=True):
        yield cells if isinstance(cells, InputError) else _row(*cells)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return all rows as dicts with lower-case column names; DataError for a bad row or an empty table."""
    rows = []
    for cells in iterate_table(path):
        if isinstance(cells, InputError):
            raise DataError(f"{cells.source} cannot be read as a table: {cells.reason}")
        rows.append(cells[1])
    if not rows:
        raise DataError(f"{path} has no rows; give a CSV, TSV, JSONL or Parquet file with named columns")
    return rows


def read_json_lines(path: Path) -> list[Cells]:
    """Return the objects of a JSONL file of any suffix, with their lines' names; DataError for a bad line."""
    lines: list[Cells] = []
    try:
        for cells in _read_jsonl(path, escape_name(path), needs_media=False):
            if isinstance(cells, InputError):
                raise DataError(f"{cells.source} {cells.reason}")
            lines.append(cells)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return lines


def find_column(columns: Collection[str], names: Sequence[str], path: Path, what: str) -> str:
    """Return the first of some column names that a table has; DataError lists the table's columns."""
    for name in names:
        if name in columns:
            return name
    allowed, present = " or ".join(map(repr, names)), ", ".join(map(repr, columns))
    raise DataError(f"{path} has no column {allowed} for {what}, but {present}")


def iterate_table(path: Path, needs_media: bool = False) -> Iterator[Cells | InputError]:
    """Yield each row's name and cells, by column in lower case, or an error per bad row or for the whole table.

    `needs_media`: require columns of paths or texts, and read only these. A row of a CSV or TSV file with more cells
    than columns is bad, because a cell with a comma was not quoted.
    """
    name, suffix = escape_name(path), path.suffix.lower()
    rows: Iterator[Cells | InputError]
    try:
        if suffix in (".parquet", ".pq"):
            rows = _read_parquet(path, name, needs_media)
        elif suffix in (".jsonl", ".ndjson"):
            rows = _read_jsonl(path, name, needs_media)
        else:
            rows = _read_csv(path, name, needs_media, "\t" if suffix == ".tsv" else ",")
        for row in rows:
            if isinstance(row, InputError):
                yield row
            else:
                yield row[0], {key.strip().lower(): value for key, value in row[1].items() if key is not None}
    except InputError as error:
        yield error
    except (OSError, ValueError, OverflowError, csv.Error, pa.ArrowException) as error:
        yield InputError(name, f"cannot be read: {one_line(error)}")


def _read_csv(path: Path, name: str, needs_media: bool, delimiter: str) -> Iterator[Cells | InputError]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape" if needs_media else "strict", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        _check_columns(reader.fieldnames or (), name, needs_media)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                yield InputError(f"{name}:{reader.line_num + 1}", one_line(problem))
                continue
            where = f"{name}:{reader.line_num}"
            if None in cells:  # where csv puts cells beyond the last column
                yield InputError(where, "has more cells than columns; quote cells that hold the separator")
            else:
                yield where, cells


def _read_jsonl(path: Path, name: str, needs_media: bool) -> Iterator[Cells | InputError]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                cells = parse_json(line, object)
            except ValueError as error:
                yield InputError(where, f"is not JSON: {one_line(error)}")
                continue
            if not isinstance(cells, dict):
                yield InputError(where, "is not a JSON object")
                continue
            if number == 1:
                _check_columns(cells, name, needs_media)
            yield where, cells


def _read_parquet(path: Path, name: str, needs_media: bool) -> Iterator[Cells]:
    with path.open("rb") as file:
        table = open_parquet(file)
        columns = table.schema_arrow.names
        _check_columns(columns, name, needs_media)
        columns = [column for column in columns if not needs_media or column.strip().lower() in _READ]
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for cells in batch.to_pylist():
                number += 1
                yield f"{name}:{number}", cells


def open_parquet(source: Path | BinaryIO) -> pq.ParquetFile:
    """Open a Parquet file whose pages are compared with their checksums, if it has any, as they are read."""
    return pq.ParquetFile(source, page_checksum_verification=True)


def _check_columns(columns: Iterable[str], name: str, needs_media: bool) -> None:
    if needs_media and not {column.strip().lower() for column in columns} & _NAMED:
        present = ", ".join(map(repr, columns)) or "none"
        allowed = "'path' (or 'file', 'image', 'video', 'url', 'text', …)"
        raise InputError(name, f"has no column {allowed}, but {present[:200]}")


def _row(where: str, cells: dict[str, Any]) -> Row | InputError:
    values = {key: value for key, value in cells.items() if value not in (None, "")}
    path = next((values[column] for column in PATH_COLUMNS if column in values), None)
    texts = [values[column] for column in TEXT_COLUMNS if column in values]
    text = next((item for item in texts if isinstance(item, str)), texts[0] if texts and path is None else None)
    for value in (path, text):
        if value is not None and not isinstance(value, str):
            return InputError(where, f"its path or text is of type {type(value).__name__}, not a string")
    if path is None and text is None:
        return InputError(where, "has neither a path nor a text")
    times: dict[str, float | None] = {}
    for column in ("start", "end"):
        try:
            seconds = float(values.get(column, "nan"))
        except (TypeError, ValueError, OverflowError):
            return InputError(where, f"its {column} is {values[column]!r}, not a number of seconds")
        times[column] = None if math.isnan(seconds) else seconds
    return Row(path, times["start"], times["end"], text, str(values["id"]) if "id" in values else None)


_LOCK = threading.Lock()


@dataclass(frozen=True)
class TableImage:
    """An image in a Parquet file: a cell with bytes or `{bytes, path}`, or an item of a cell that lists these."""

    path: Path
    row_group: int
    row: int
    """Within the row group."""
    column: str
    index: int | None = None
    """Index in the cell's list; None if the cell holds one image."""

    def read(self) -> bytes:
        """Return its bytes; MediaDecodeError if the cell is empty or the file cannot be read.

        A row group's images are read together, and the last two groups stay in memory.
        """
        name = f"{escape_name(self.path)}: row {self.row} of group {self.row_group}"
        try:
            with _LOCK:  # threads that decode ahead want the same group
                value = _read_column(self.path, self.row_group, self.column)[self.row]
                cell = (value if self.index is None else value[self.index]).as_py()
        except (OSError, IndexError, TypeError, ValueError, pa.ArrowException) as error:
            raise MediaDecodeError(name, f"cannot be read: {one_line(error)}") from error
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise MediaDecodeError(name, f"has no image in the column {self.column!r}")
        return content


@cached_by_file(2)
def _read_column(path: Path, row_group: int, column: str) -> pa.ChunkedArray:
    return open_parquet(path).read_row_group(row_group, columns=[column]).column(column)


def split_tables(root: Path, split: str, directory: str = "", depths: Sequence[str] = DEPTHS) -> list[Path]:
    """Return a split's Parquet files as the hub has them, `SPLIT-*.parquet` at some depths; empty without such files.

    `directory`: the one that holds this dataset, if others lie beside it. Raises DataError for files in several.
    """
    if root.suffix == ".parquet":
        paths = [root]
    else:
        tables = [path for depth in depths for path in root.glob(f"{depth}*.parquet")]
        paths = sorted(path for path in tables if re.split(r"[-.]", path.name)[0] in split_names(split))
    if directory:
        paths = [path for path in paths if path.parent.name == directory] or paths
    parents = sorted({str(path.parent) for path in paths})
    if len(parents) > 1:
        raise DataError(f"{root} has tables of {split!r} in {', '.join(parents)}; give one of these directories")
    return paths


def class_names_of(path: Path, column: str) -> tuple[str, ...]:
    """Return the names of the classes that a column of the hub's Parquet files numbers; empty if it has none."""
    try:
        described = parse_json((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"), dict[str, Any])
        names = described["info"]["features"][column]["names"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def read_image_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], TableImage]]:
    """Yield each row's name, its other cells, and its image, from the first of `columns` that the file has.

    Raises DataError if the file cannot be read or has none of these columns.
    """
    name = escape_name(path)
    try:
        file = open_parquet(path)
        column = find_column(file.schema_arrow.names, columns, path, "images")
        others = [field.name for field in file.schema_arrow if not _holds_media(field.type)]
        number = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[value for value in others if value != column])
            for row, cells in enumerate(table.to_pylist()):
                number += 1
                yield f"{name}:{number}", cells, TableImage(path, group, row, column)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name} cannot be read: {one_line(error)}") from error


def has_media(path: Path) -> bool:
    """Return whether a Parquet file holds images or videos themselves; False if it cannot be read."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    return any(field.name in MEDIA_COLUMNS and _holds_media(field.type) for field in schema)


def _holds_media(kind: pa.DataType) -> bool:
    """Return whether cells are `{bytes, path}`, as of images, videos and their sound."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


@contextmanager
def without_panics() -> Iterator[None]:
    """Raise a RuntimeError for LanceDB's panics on damaged files: some of them are not Exceptions."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ not in ("PanicException", "RustPanic"):
            raise
        raise RuntimeError(one_line(error)) from None


def connect_lance(directory: Path) -> DBConnection:
    """Open a directory of tables; MissingExtraError without LanceDB, OutputError if its path is not UTF-8."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it would warn of harmless conditions
    with needs_extra("lance", "lancedb"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        import lancedb
    try:
        return lancedb.connect(str(directory.absolute()).encode().decode())  # absolute: "a:b" would be taken for a URL
    except UnicodeEncodeError:
        raise OutputError(f"{escape_name(directory)}: a LanceDB table needs a path in UTF-8") from None
