"""An index for other programs: its vectors as `pe embed` writes them."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.inference.collection import read_collection
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.search.index import Index, open_index
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search.vector_stores import write_vectors
from tests.clips import clip
from tests.search.indexes import SETTINGS, make_rows, unit_vectors


@pytest.fixture
def index(checkpoint: Path, pictures: list[Path]) -> Index:
    for seconds in (4, 20):
        (pictures[0].parent / f"{seconds}.mp4").write_bytes(clip(10 * seconds, rate=10))
    index = open_index(pictures[0].parent, checkpoint)
    index.update()
    return index


@pytest.mark.parametrize("name", ["vectors", "vectors.parquet", "vectors.lance"])
def test_vectors_are_read_back_as_they_are(name: str, index: Index, pictures: list[Path], tmp_path: Path) -> None:
    out, store = tmp_path / "out" / name, IndexStore.open(pictures[0].parent)
    out.parent.mkdir()
    assert index.export_vectors(out) == len(index) == len(store)
    read = read_collection(out)
    assert read is not None
    collection, settings = read
    assert settings["weight_hash"] == store.settings["weight_hash"]
    rows = store.rows()
    np.testing.assert_allclose(collection.vectors, np.stack([row.vector for row in rows]), atol=1e-6)
    assert [item.source for item in collection.items] == [store.directory / row.path for row in rows]
    assert [(item.start, item.end) for item in collection.items] == [(row.start, row.stop) for row in rows]
    assert sum(collection.is_video) == sum(row.kind == "video" for row in rows) >= 2
    with pytest.raises(OutputError, match="exists"):
        index.export_vectors(out)
    assert index.export_vectors(out, overwrite=True) == len(index)


def test_an_export_that_failed_is_made_anew(index: Index, tmp_path: Path) -> None:
    out = tmp_path / "out" / "vectors.parquet"
    with patch.object(EmbeddingWriter, "finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        index.export_vectors(out)
    assert os.listdir(out.parent) == ["vectors.parquet.parts"]
    assert index.export_vectors(out) == len(index) and os.listdir(out.parent) == ["vectors.parquet"]


def test_an_empty_index_is_not_written(checkpoint: Path, tmp_path: Path) -> None:
    index = open_index(tmp_path, checkpoint)
    assert index.update().rows == 0
    with pytest.raises(OutputError, match="is empty"):
        index.export_vectors(tmp_path / "vectors.parquet")


@pytest.mark.parametrize("to", ["qdrant", "lancedb"])
def test_a_vector_store_loads_an_index(
    index: Index, to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip({"qdrant": "qdrant_client", "lancedb": "lancedb"}[to])
    out = tmp_path / "out"
    assert index.export_vectors(out, to=to) == len(index)
    monkeypatch.setattr(sys, "argv", ["load.py"])
    monkeypatch.chdir(tmp_path)
    if to == "qdrant":
        client = importlib.import_module("qdrant_client").QdrantClient(":memory:")
        monkeypatch.setattr("qdrant_client.QdrantClient", lambda address: client)
    for _ in range(2):  # the second time replaces the rows
        loaded = runpy.run_path(str(out / "load.py"))
        assert capsys.readouterr().out.endswith("; 0 removed\n")
    (store,) = index._open()
    rows = store.rows()
    for row in (rows[0], next(row for row in rows if row.kind == "video")):
        if to == "qdrant":
            (point,) = loaded["client"].query_points("photos", query=row.vector.tolist(), limit=1).points
            found = {"id": point.id, **point.payload}
        else:
            assert loaded["table"].count_rows() == len(index)
            (found,) = loaded["table"].search(row.vector.tolist()).limit(1).to_list()
        assert (found["path"], found["kind"]) == (str(store.root / row.path), row.kind)
        assert (found["start"], found["stop"], found["date"]) == (row.start, row.stop, row.date)
        assert (found["model"], found["weights"]) == (store.settings["model"], store.settings["weight_hash"])
        assert uuid.UUID(found["id"]).version == 5
    ids = pq.read_table(out / "vectors.parquet", columns=["id"])["id"].to_pylist()
    assert len(set(ids)) == len(ids)
    monkeypatch.chdir(store.root.parent)
    open_index(store.root.name, index._model).export_vectors(tmp_path / "again", to=to)
    assert pq.read_table(tmp_path / "again" / "vectors.parquet", columns=["id"])["id"].to_pylist() == ids
    for refused in (index.export_vectors, partial(write_vectors, [store])):
        with pytest.raises(OutputError, match="choose another directory"):
            refused(out, to=to)
    (out / "vectors.parquet").write_bytes(b"")
    assert index.export_vectors(out, to=to, overwrite=True) == len(index)
    assert pq.read_metadata(out / "vectors.parquet").num_rows == len(index)
    (out / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="choose another directory"):
        index.export_vectors(out, to=to, overwrite=True)
    assert (out / "mine.txt").read_text() == "kept"
    with pytest.raises(ConfigError, match=r"directory, which has no suffix"):
        index.export_vectors(tmp_path / "x.parquet", to=to)


def paths_in_store(to: str, exports: Iterable[Callable[[Path], object]], folder: Path) -> tuple[list[str], list[int]]:
    """Load exports into one store after the other; return its paths and how many rows each one removed."""
    removed, found = [], list[str]()
    client: Any = None
    run = load_into_postgres(folder / "database") if to == "pgvector" else None
    if to == "qdrant":
        client = importlib.import_module("qdrant_client").QdrantClient(":memory:")
    for number, export in enumerate(exports):
        export(out := folder / f"out{number}")
        if run is not None:
            printed = run("-f", str(out / "load.sql"), cwd=out)
            removed.append(int(re.findall(r"^(\d+)$", printed, re.MULTILINE)[-1]))
            found = run("-c", "SELECT path FROM photos").splitlines()
            continue
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed_out:
            patch.setattr(sys, "argv", ["load.py", str(folder / "lance")])
            if to == "qdrant":
                patch.setattr("qdrant_client.QdrantClient", lambda address: client)
            loaded = runpy.run_path(str(out / "load.py"))
        removed.append(int(re.findall(r"(\d+) removed", printed_out.getvalue())[0]))
        if to == "qdrant":
            found = [point.payload["path"] for point in client.scroll("photos", limit=999)[0]]
        else:
            found = loaded["table"].to_arrow()["path"].to_pylist()
    return sorted(found), removed


@pytest.mark.parametrize("to", ["qdrant", "lancedb", "pgvector"])
def test_a_store_follows_deleted_files_and_has_absolute_paths(
    to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of other directories and models stay, from wherever the command was run."""
    pytest.importorskip({"qdrant": "qdrant_client", "lancedb": "lancedb", "pgvector": "pgserver"}[to])
    monkeypatch.chdir(tmp_path)
    rows, names = make_rows(unit_vectors(6, 0)), [f"{number}.jpg" for number in range(6)]
    for name in ("it's", "it's too", "other"):
        (tmp_path / name).mkdir()
        store = IndexWriter.create(tmp_path / name, SETTINGS | {"weight_hash": "z'" if name == "other" else "a'b\\"})
        store.replace([], [replace(row, path=f"sub/{row.path}" if row.id == "3" else row.path) for row in rows])
    names[3] = "sub/3.jpg"

    def export(name: str, out: Path, below: str = "") -> None:
        store = IndexStore.open(Path(name))
        store.below = below
        write_vectors([store], out, to)

    def delete(out: Path) -> None:
        IndexWriter.open(tmp_path / "it's").replace(["1.jpg", "sub/3.jpg"], [])
        monkeypatch.chdir(tmp_path / "other")
        export("../it's", out)

    exports = [*(partial(export, name) for name in ("it's", "it's too", "other")), delete, partial(export, "../it's")]
    exports.append(partial(export, "../it's too", below="sub/"))
    found, removed = paths_in_store(to, exports, tmp_path)
    assert removed == [0, 0, 0, 2, 0, 0]
    kept = [f"{tmp_path}/it's/{name}" for name in names if name not in ("1.jpg", "sub/3.jpg")]
    assert found == sorted([*kept, *(f"{tmp_path}/{name}/{path}" for name in ("it's too", "other") for path in names)])


def test_pgvector_gets_rows_and_sql(index: Index, tmp_path: Path) -> None:
    index.export_vectors(out := tmp_path / "out", to="pgvector")
    (store,) = index._open()
    rows, dimension = store.rows(), store.settings["dimension"]
    with (out / "vectors.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["start"] for row in read] == ["" if row.start is None else str(row.start) for row in rows]
    np.testing.assert_array_equal([json.loads(row["vector"]) for row in read], [row.vector for row in rows])
    sql = (out / "load.sql").read_text()
    assert f"vector({dimension})" in sql and "{" not in sql
    run = load_into_postgres(tmp_path / "database", out)
    psql = partial(run, "-c")
    assert psql("SELECT count(*) FROM photos") == str(len(index))
    near = f"SELECT path FROM photos ORDER BY vector <=> '{json.dumps(rows[-1].vector.tolist())}' LIMIT 1"
    assert rows[-1].path in psql(near)
    assert "hnsw" in psql("SELECT indexdef FROM pg_indexes WHERE tablename = 'photos' AND indexdef LIKE '%vector%'")


def load_into_postgres(database: Path, out: Path | None = None) -> Callable[..., str]:
    """Load an export twice, the second time in place of the first; return what runs psql."""
    server = pytest.importorskip("pgserver").get_server(database, cleanup_mode="delete")
    psql = Path(sys.modules["pgserver"].__file__ or "").parent / "pginstall" / "bin" / "psql"
    command = [psql, server.get_uri(), "-v", "ON_ERROR_STOP=1", "-tA"]

    def run(*options: str, cwd: Path | None = out) -> str:
        return subprocess.run([*command, *options], cwd=cwd, check=True, text=True, capture_output=True).stdout.strip()

    for _ in range(2 if out else 0):
        run("-f", "load.sql")
    return run


def test_pgvector_takes_vectors_that_it_cannot_index(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    store = IndexWriter.create(tmp_path / "photos", SETTINGS | {"dimension": 2048})
    vectors = np.random.default_rng(0).standard_normal((5, 2048), dtype=np.float32)
    store.replace([], make_rows(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))
    assert write_vectors([store], out := tmp_path / "out", "pgvector") == 5
    assert "hnsw" not in (out / "load.sql").read_text()
    assert load_into_postgres(tmp_path / "database", out)("-c", "SELECT count(*) FROM photos") == "5"


def test_other_stores_are_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to is 'pinecone'"):
        index.export_vectors(tmp_path / "more", to="pinecone")  # type: ignore[arg-type]
