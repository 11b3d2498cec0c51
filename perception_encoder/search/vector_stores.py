"""Write the embeddings of an index for a vector store, with the program that loads them."""

from __future__ import annotations

import csv
import re
import uuid
from collections.abc import Iterator, Sequence
from itertools import islice
from os.path import abspath, join
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing_new, write_text, writing
from perception_encoder.preprocess.source import escape_name, unescape_name
from perception_encoder.search.ranking import rows_with_words
from perception_encoder.search.storage.store import IndexStore

VectorStore = Literal["qdrant", "lancedb", "pgvector"]
_COLUMNS = ("id", "vector", "path", "kind", "start", "stop", "date", "words", "model", "weights")
_BATCH = 10_000  # rows written at a time
_INDEXED = 2000  # maximum numbers of a vector that pgvector indexes

_QDRANT = '''"""Load vectors.parquet into Qdrant: python load.py [URL], by default into memory, to try it."""
import sys
from pathlib import Path

import pyarrow.parquet as parquet
from qdrant_client import QdrantClient, models

client = QdrantClient(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
if not client.collection_exists("photos"):
    client.create_collection("photos", models.VectorParams(size={size}, distance=models.Distance.COSINE))
exported, gone, place = set(), [], None
file = Path(__file__).with_name("vectors.parquet")
for batch in parquet.ParquetFile(file, page_checksum_verification=True).iter_batches(1000):
    points = [models.PointStruct(id=row.pop("id"), vector=row.pop("vector"), payload=row) for row in batch.to_pylist()]
    client.upsert("photos", points)
    exported.update(point.id for point in points)
# of the exported directories and this model, what the export no longer has
model = models.Filter(must=[models.FieldCondition(key="weights", match=models.MatchValue(value={weights}))])
while True:
    points, place = client.scroll("photos", model, limit=1000, offset=place, with_payload=["path"])
    gone += [p.id for p in points if p.payload["path"].startswith({directories}) and p.id not in exported]
    if place is None:
        break
for start in range(0, len(gone), 1000):
    client.delete("photos", gone[start : start + 1000])
print(client.count("photos").count, "embeddings in the collection photos;", len(gone), "removed")
'''
_LANCEDB = '''"""Load vectors.parquet into LanceDB: python load.py [DIRECTORY], by default ./lancedb."""
import sys
from pathlib import Path

import lancedb
import pyarrow.parquet as parquet

rows = parquet.read_table(Path(__file__).with_name("vectors.parquet"), page_checksum_verification=True)
database = lancedb.connect(sys.argv[1] if len(sys.argv) > 1 else "lancedb")
table = database.create_table("photos", schema=rows.schema, exist_ok=True)
table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
loaded = table.count_rows()
# of the exported directories and this model, what the export no longer has
table.merge_insert("id").when_not_matched_by_source_delete({python_condition}).execute(rows)
print(table.count_rows(), "embeddings in the table photos;", loaded - table.count_rows(), "removed")
'''
_PGVECTOR = """-- Load vectors.csv into PostgreSQL with pgvector, from its directory: psql DATABASE -f load.sql
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS photos (
    id uuid PRIMARY KEY, vector vector({size}) NOT NULL, path text NOT NULL, kind text NOT NULL,
    start double precision, stop double precision, date timestamp, words text,
    model text NOT NULL, weights text NOT NULL
);
BEGIN;
CREATE TEMPORARY TABLE loaded (LIKE photos) ON COMMIT DROP;
\\copy loaded FROM 'vectors.csv' WITH (FORMAT csv, HEADER)
DELETE FROM photos WHERE id IN (SELECT id FROM loaded);
INSERT INTO photos SELECT * FROM loaded;
-- of the exported directories and this model, what the export no longer has
WITH gone AS (DELETE FROM photos WHERE {condition} AND id NOT IN (SELECT id FROM loaded) RETURNING id)
SELECT count(*) AS removed FROM gone;
COMMIT;
{index}
"""
_INDEX = "CREATE INDEX IF NOT EXISTS photos_vector ON photos USING hnsw (vector vector_cosine_ops);"
_NO_INDEX = "-- without an index, whose vectors have at most 2,000 numbers: a search compares every row"
_PROGRAMS = {"qdrant": _QDRANT, "lancedb": _LANCEDB, "pgvector": _PGVECTOR}


def write_vectors(stores: Sequence[IndexStore], out: Path, to: VectorStore, overwrite: bool = False) -> int:
    """Write the rows of indexes, and the program that loads them, to a directory; return their number.

    vectors.parquet, or vectors.csv for pgvector, has a row for each image and moment: `id` (a UUID that stays while the
    file keeps its path), `vector` (float32, D, of unit length), `path` (absolute), `kind`, `start` and `stop` in
    seconds, `date`, `words` (lines of text in the image, if they were read), `model` and `weights` (their hash). The
    program removes other rows of these weights in the indexed directories. Raises ConfigError for another store or a
    suffix, and OutputError.
    """
    if to not in _PROGRAMS:
        raise ConfigError(f"to is {to!r}; it must be one of {', '.join(get_args(VectorStore))}")
    if out.suffix:
        raise ConfigError(f"{out}: a vector store's files are written to a directory, which has no suffix")
    size = stores[0].settings["dimension"]
    directories = tuple(join(_absolute(store, store.below), "") for store in stores)
    weights = stores[0].settings["weight_hash"]
    inside = " OR ".join(f"starts_with(path, {_quoted(directory)})" for directory in directories)
    condition = f"weights = {_quoted(weights)} AND ({inside})"
    values = {
        "index": _INDEX if size <= _INDEXED else _NO_INDEX,
        "size": str(size),
        "weights": repr(weights),
        "directories": repr(directories),
        "condition": condition,
        "python_condition": repr(condition),
    }
    program = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], _PROGRAMS[to])
    is_sql = to == "pgvector"
    name, table = ("load.sql", "vectors.csv") if is_sql else ("load.py", "vectors.parquet")
    with writing(out), replacing_new(out, (name, table) if overwrite else ()) as temporary:
        count = (_write_csv if is_sql else _write_parquet)(_rows(stores), temporary / table, size)
        write_text(temporary / name, program)
    return count


def _rows(stores: Sequence[IndexStore]) -> Iterator[dict[str, Any]]:
    about = stores[0].settings["model"], stores[0].settings["weight_hash"]
    for store, row, words in rows_with_words(stores):
        path = _absolute(store, row.path)
        number = uuid.uuid5(uuid.NAMESPACE_URL, path if row.start is None else f"{path}@{row.start}")
        values = (row.vector, path, row.kind, row.start, row.stop, row.date or None, "\n".join(words) or None)
        yield dict(zip(_COLUMNS, (str(number), *values, *about), strict=True))


def _absolute(store: IndexStore, path: str) -> str:
    return abspath(escape_name(store.root / unescape_name(path)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path, size: int) -> int:
    types = {"vector": pa.list_(pa.float32(), size), "start": pa.float64(), "stop": pa.float64()}
    schema, count = pa.schema([(name, types.get(name, pa.string())) for name in _COLUMNS]), 0
    options = {"write_page_checksum": True, "use_compliant_nested_type": False}  # LanceDB calls a list's values so
    with ParquetWriter(path, schema, **options) as writer:
        for batch in iter(lambda: list(islice(rows, _BATCH)), []):
            writer.write_table(pa.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _write_csv(rows: Iterator[dict[str, Any]], path: Path, size: int) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "vector": f"[{','.join(map(str, row['vector'].tolist()))}]"})
            count += 1
    return count
