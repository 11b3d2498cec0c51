"""Embeddings as Arrow tables and as files: Parquet, Lance, or clip-retrieval's directory.

One row an item; `vector` is a fixed_size_list<float32> of D or, with pool "tokens", a list of such vectors, one per
patch, row by row and frame by frame. The run's settings are JSON in the metadata under `perception_encoder`. A
directory has `img_emb/img_emb_0.npy` (`text_emb/…` if all rows are texts) and `metadata/metadata_0.parquet`.

Pages of Parquet files have checksums. Their metadata has that of what no page holds, under `perception_encoder.crc32`:
the settings and, in a directory, the vectors. Files of other tools may have none.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import ConfigError, OutputError, one_line
from perception_encoder.files import open_regular, remove
from perception_encoder.formats.listing import Item
from perception_encoder.formats.tables import connect_lance, open_parquet, without_panics
from perception_encoder.inference.pipeline import Embedding, is_text
from perception_encoder.records import parse_json
from perception_encoder.store import Store
from perception_encoder.vectors import are_unit, load_array, unit_rows

METADATA, CHECKSUM = "perception_encoder", "perception_encoder.crc32"
_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
_GROUP_BYTES = 64 << 20
GROUP_ROWS = 8192
_DIRECTORIES = {"": {"img_emb", "text_emb", "metadata"}, ".lance": {"data", "_versions", "_transactions"}}
"""Names of the files in a directory that this module wrote, by suffix."""


def check_target(out: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Raise ConfigError for an unknown format, and OutputError if `out` may not be written."""
    if out.suffix not in ("", ".parquet", ".lance"):
        raise ConfigError(f"{out}: embeddings are written to .parquet, .lance, or a directory (a name without suffix)")
    if not out.suffix and settings["pool"] == "tokens":
        raise ConfigError(f"{out}: a directory holds one vector per item; write tokens to a .parquet file")
    if not out.exists():
        return
    if out.is_dir():
        inside = {path.name for path in out.iterdir()}
        if inside - _DIRECTORIES.get(out.suffix, set()) or out.suffix == ".parquet":
            raise OutputError(f"{out} is a directory with other contents; choose another name")
        if not inside:
            return
    if not overwrite:
        raise OutputError(f"{out} exists; choose another name, or set overwrite to replace it")


def to_table(embeddings: Sequence[Embedding[Item]], settings: Mapping[str, Any]) -> pa.Table:
    """Build a table with one row per item; `settings` are those of `Encoder.describe`."""
    items = [embedding.key for embedding in embeddings]
    visual = [not is_text(item) for item in items]  # texts have no layer and no pool
    columns: dict[str, pa.Array] = {
        "id": _strings(item.id for item in items),
        "path": _strings(item.path for item in items),
        "start": pa.array([item.start for item in items], pa.float64()),
        "end": pa.array([item.end for item in items], pa.float64()),
        "text": _strings(item.text for item in items),
        "times": pa.array([embedding.times or None for embedding in embeddings], pa.list_(pa.float64())),
        "model": pa.array([settings["model"]] * len(items), pa.string()),
        "weight_hash": pa.array([settings["weight_hash"]] * len(items), pa.string()),
        "layer": pa.array([settings["layer"] if is_visual else None for is_visual in visual], pa.int32()),
        "pool": pa.array([settings["pool"] if is_visual else None for is_visual in visual], pa.string()),
        "normalized": pa.array([settings["normalized"]] * len(items), pa.bool_()),
    }
    if settings.get("words"):
        words = [_strings(embedding.words) for embedding in embeddings]
        columns["words"] = pa.array([lines.to_pylist() for lines in words], pa.list_(pa.string()))
    vectors = [embedding.vector for embedding in embeddings]
    if settings["pool"] == "tokens":
        columns |= _tokens(vectors, settings["grid"], settings["dimension"])
    else:
        columns["vector"] = _fixed_size_lists(vectors, settings["dimension"])
    return pa.table(columns)


def _strings(values: Iterable[str | None]) -> pa.Array:
    """Build an array of strings, escaping lone surrogates, which UTF-8 cannot encode."""
    return pa.array([value and value.encode("utf-8", "backslashreplace").decode() for value in values], pa.string())


def _fixed_size_lists(vectors: Sequence[np.ndarray], dimension: int) -> pa.FixedSizeListArray:
    values = np.concatenate([vector.reshape(-1) for vector in vectors] or [np.empty(0)]).astype(np.float32, copy=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(values), dimension)


def _tokens(tokens: Sequence[np.ndarray], grid: Sequence[int], dimension: int) -> dict[str, pa.Array]:
    """Build lists of vectors from tokens (N, D), or (F, N, D) for videos, with their layout."""
    counts = [array.size // dimension for array in tokens]
    offsets = pa.array(np.cumsum([0, *counts]), pa.int32())
    height, width = grid
    return {
        "frames": pa.array([count // (height * width) for count in counts], pa.int32()),
        "grid_height": pa.array([height] * len(tokens), pa.int32()),
        "grid_width": pa.array([width] * len(tokens), pa.int32()),
        "vector": pa.ListArray.from_arrays(offsets, _fixed_size_lists(tokens, dimension)),
    }


def write_embeddings(target: Path, suffix: str, parts: Sequence[Path], store: Store) -> None:
    """Write the rows of all parts of a store in the format of `suffix`; DataError for a damaged part."""
    schema = to_table([], store.settings).schema.with_metadata(_described(store.settings))
    if suffix == ".lance":
        _write_lance(target, parts, store, schema)
    elif suffix == ".parquet":
        with open(target, "wb") as file, pq.ParquetWriter(file, schema, **_OPTIONS) as writer:
            for table in _read(parts, store):
                writer.write_table(table.cast(schema))
    else:
        _write_directory(target, parts, store)


def _write_lance(target: Path, parts: Sequence[Path], store: Store, schema: pa.Schema) -> None:
    beside = target.with_name(f"{target.name}.lancedb")
    remove(beside)  # of a run that was killed as it wrote
    try:
        table = connect_lance(beside).create_table("rows", schema=schema)
        for rows in _read(parts, store):
            table.add(rows.cast(schema))
        (beside / "rows.lance").rename(target)
    finally:
        remove(beside)


def _write_directory(target: Path, parts: Sequence[Path], store: Store) -> None:
    settings, rows, texts, crc32 = store.settings, 0, True, 0
    for table in _read(parts, store):
        rows += table.num_rows
        texts = texts and table["layer"].null_count == table.num_rows
        for vectors in _vectors_of(table):
            crc32 = zlib.crc32(vectors, crc32)
    name = "text_emb" if texts and rows else "img_emb"
    (target / name).mkdir(parents=True)
    (target / "metadata").mkdir()
    schema = _metadata_of(to_table([], settings)).schema.with_metadata(_described(settings, crc32))
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, settings["dimension"])}
    with (
        open(target / name / f"{name}_0.npy", "wb") as array,
        open(target / "metadata" / "metadata_0.parquet", "wb") as file,
        pq.ParquetWriter(file, schema, **_OPTIONS) as metadata,
    ):
        np.lib.format.write_array_header_1_0(array, shape)
        for table in _read(parts, store):
            array.writelines(_vectors_of(table))
            metadata.write_table(_metadata_of(table).cast(schema))


def _described(settings: Mapping[str, Any], crc32: int = 0) -> dict[str, str]:
    """Return the metadata of a file with these settings; `crc32`: the checksum of vectors outside it."""
    text = json.dumps(settings)
    return {METADATA: text, CHECKSUM: str(zlib.crc32(text.encode(), crc32))}


def _vectors_of(table: pa.Table) -> Iterator[memoryview]:
    for chunk in table["vector"].chunks:
        yield chunk.flatten().to_numpy().astype("<f4", copy=False).data


def _metadata_of(table: pa.Table) -> pa.Table:
    names = {"path": "image_path", "text": "caption"}
    table = table.drop_columns(["vector"])
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def _read(parts: Sequence[Path], store: Store) -> Iterator[pa.Table]:
    """Yield the rows of all parts, in groups that do not depend on the boundaries of the parts."""
    settings = store.settings
    row_bytes = 4 * settings["dimension"] * (math.prod(settings["grid"]) if settings["pool"] == "tokens" else 1)
    group = max(1, min(GROUP_ROWS, _GROUP_BYTES // row_bytes))
    rest = to_table([], settings)
    for part in parts:
        reading = store.reading(part, also=(pa.ArrowException,))
        with reading, open(open_regular(part, False), "rb") as file, open_parquet(file) as parquet:
            rest = pa.concat_tables([rest, parquet.read().replace_schema_metadata()])
        while rest.num_rows >= group:
            yield rest.slice(0, group)
            rest = rest.slice(group)
    if rest.num_rows:
        yield rest


def read_embeddings(path: Path) -> tuple[pa.Table, np.ndarray, dict[str, Any]] | None:
    """Read rows (without vectors), unit vectors (n, D) and settings written by this module or by clip-retrieval.

    None if `path` is something else, or holds tokens. The settings are empty if clip-retrieval wrote it.
    Raises OutputError if it is damaged.
    """
    try:
        if path.is_dir() and {"img_emb", "metadata"} <= {inside.name for inside in path.iterdir()}:
            _refuse_pipes(path)
            rows, vectors = _read_directory(path)
        elif path.suffix == ".parquet" and path.is_file() and "vector" in pq.read_schema(path).names:
            rows = open_parquet(path).read()
            _check(rows)
            vectors = rows["vector"]
        elif path.suffix == ".lance" and path.is_dir():
            _refuse_pipes(path)
            with without_panics():
                rows = connect_lance(path.parent).open_table(path.stem).to_arrow()
            _check(rows)
            vectors = rows["vector"]
        else:
            return None
        settings = parse_json((rows.schema.metadata or {}).get(METADATA.encode(), b"{}"), dict[str, Any], "settings")
    except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowException) as error:
        raise OutputError(f"{path} cannot be read: {one_line(error)}; write it again") from error
    if isinstance(vectors, pa.ChunkedArray):
        if not pa.types.is_fixed_size_list(vectors.type):
            return None
        flat = vectors.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.astype(np.float32, copy=False).reshape(len(rows), vectors.type.list_size)
    with np.errstate(over="ignore", invalid="ignore"):
        unit = unit_rows(vectors)
    sound = are_unit(vectors if settings.get("normalized") else unit)
    if not sound.all():
        reason = "is zero, not finite or not of unit length"
        raise OutputError(f"{path} cannot be read: the vector of row {sound.argmin()} {reason}")
    return rows, unit, settings


def _refuse_pipes(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a regular file")


def _check(table: pa.Table, vectors: np.ndarray | None = None) -> None:
    """Raise ValueError if the metadata has a checksum, and it is not that of the settings and the vectors."""
    metadata = table.schema.metadata or {}
    if CHECKSUM.encode() in metadata:
        crc32 = 0 if vectors is None else zlib.crc32(np.ascontiguousarray(vectors, "<f4").data)
        if metadata[CHECKSUM.encode()] != b"%d" % zlib.crc32(metadata.get(METADATA.encode(), b""), crc32):
            raise ValueError("its settings or vectors differ from their checksum")


def _read_directory(directory: Path) -> tuple[pa.Table, np.ndarray]:
    arrays, tables = (
        [read(part) for part in sorted(directory.glob(pattern), key=lambda part: int(part.stem.rpartition("_")[2]))]
        for pattern, read in (
            ("img_emb/*.npy", load_array),
            ("metadata/*.parquet", lambda part: open_parquet(part).read()),
        )
    )
    for table, array in zip(tables, arrays, strict=False):
        _check(table, array)
    rows, vectors = pa.concat_tables(tables), np.concatenate(arrays).astype(np.float32, copy=False)
    if len(rows) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors, but {len(rows)} rows of metadata")
    table = rows.rename_columns(["path" if name == "image_path" else name for name in rows.column_names])
    return table.replace_schema_metadata(rows.schema.metadata), vectors
