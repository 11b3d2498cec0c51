"""Approximate search: nearly the exact hits with exact similarities, through additions, replacements and removals."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.storage import files as snapshot
from perception_encoder.search.storage import store as index_module
from perception_encoder.search.storage.rows import IndexRow, among
from perception_encoder.search.storage.store import Store

DIMENSION, COUNT = 64, 3000
SETTINGS = {"source": "none", "model": "none", "weight_hash": "none", "dimension": DIMENSION, "moments": {}}


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rows are many, and a snapshot answers nothing."""
    monkeypatch.setattr(index_module, "APPROXIMATE_ROWS", 1000)
    monkeypatch.setattr(snapshot, "MOST_BYTES", 0)


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_rows(vectors: np.ndarray, first: int = 0) -> list[IndexRow]:
    """A image or, every fourth one, a video a vector."""
    about = {"start": None, "stop": None, "time": None, "length": None, "width": 4, "height": 3, "size": 9}
    return [
        IndexRow(
            id=f"{number}",
            path=f"{number}.jpg",
            kind="image" if number % 4 else "video",
            date=f"2024-01-{number % 28 + 1:02d}T00:00:00",
            modified=number,
            digest=f"{number}",
            vector=vector,
            **about,
        )
        for number, vector in enumerate(vectors, first)
    ]


@pytest.fixture
def vectors() -> np.ndarray:
    return unit_vectors(COUNT, 0)


@pytest.fixture
def index(tmp_path: Path, vectors: np.ndarray) -> Store:
    """Three thousand rows in three commits, and their bits."""
    index = Store.create(tmp_path, SETTINGS)
    for start in range(0, COUNT, 1000):
        index.replace([], make_rows(vectors[start : start + 1000], start))
    index.finish()
    return index


def is_approximate(index: Store) -> bool:
    query = index_module.search_all_clusters(index.table.search(unit_vectors(1, 9)[0], vector_column_name="vector"))
    return "ANN" in query.limit(10).explain_plan()


def recall(index: Store, vectors: np.ndarray, where: str | None = None, allowed: np.ndarray | None = None) -> float:
    """Share of the ten best hits of fifty queries that are found; checks the similarities on the way."""
    found = 0
    for query in unit_vectors(50, 1):
        scores = vectors @ query
        best = np.argsort(-scores if allowed is None else np.where(allowed, -scores, 9))[:10]
        hits = index.nearest(query, 10, where)
        np.testing.assert_allclose([score for score, _ in hits], [scores[int(row.id)] for _, row in hits], atol=1e-6)
        assert [score for score, _ in hits] == sorted((score for score, _ in hits), reverse=True)
        found += len({row.id for _, row in hits} & set(best.astype(str)))
    return found / 500


def test_hits_are_nearly_the_exact_ones(index: Store, vectors: np.ndarray) -> None:
    assert is_approximate(index)
    assert recall(index, vectors) >= 0.99


def test_a_small_index_compares_every_row(tmp_path: Path, vectors: np.ndarray) -> None:
    index = Store.create(tmp_path, SETTINGS)
    index.replace([], make_rows(vectors[:900]))
    index.finish()
    assert not is_approximate(index)
    assert recall(index, vectors[:900]) == 1


def test_the_snapshot_gives_way_once_the_table_is_open(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MOST_BYTES", 1 << 30)
    made = Store.create(tmp_path, SETTINGS)
    made.replace([], make_rows(vectors))
    made.finish()
    index = Store.open(tmp_path)
    assert recall(index, vectors) == 1 and "table" not in vars(index)
    assert is_approximate(index)
    monkeypatch.setattr("perception_encoder.search.storage.store.nearest_rows", None)
    assert recall(index, vectors) >= 0.99


def test_conditions_hold(index: Store, vectors: np.ndarray) -> None:
    videos = np.arange(COUNT) % 4 == 0
    assert recall(index, vectors, "kind = 'video'", videos) >= 0.99
    rare = among("id", ["5", "77", "2999"])
    assert {row.id for _, row in index.nearest(unit_vectors(1, 2)[0], 10, rare)} == {"5", "77", "2999"}
    with pytest.raises(ConfigError, match="is invalid"):
        index.nearest(unit_vectors(1, 2)[0], 10, "colour = 'red'")


@pytest.mark.parametrize("finished", [False, True])
def test_new_rows_are_found_at_once(index: Store, vectors: np.ndarray, finished: bool) -> None:
    added = unit_vectors(500, 3)
    index.replace([], make_rows(added, COUNT))
    if finished:
        index.finish()
    for number in (0, 250, 499):
        assert index.nearest(added[number], 1)[0][1].id == str(COUNT + number)
    assert recall(index, np.concatenate([vectors, added])) >= 0.99


@pytest.mark.parametrize("finished", [False, True])
def test_removed_and_replaced_rows_are_found_no_more(index: Store, vectors: np.ndarray, finished: bool) -> None:
    index.remove([f"{number}.jpg" for number in range(0, COUNT, 3)])
    changed = unit_vectors(100, 4)
    index.replace([f"{number}.jpg" for number in range(1, 301, 3)], make_rows(vectors)[:0])  # nothing in their place
    numbers = range(2, 302, 3)
    rows = [row for row in make_rows(vectors) if int(row.id) in numbers]
    renewed = [IndexRow(**{**vars(row), "vector": vector}) for row, vector in zip(rows, changed, strict=True)]
    index.replace([row.path for row in rows], renewed)
    if finished:
        index.finish()
    now, here = vectors.copy(), np.ones(COUNT, bool)
    here[::3] = here[1:301:3] = False
    now[2:302:3] = changed
    assert recall(index, now, allowed=here) >= 0.99
    for vector in vectors[:300:3]:
        assert all(here[int(row.id)] for _, row in index.nearest(vector, 10))


def test_without_bits_every_row_is_compared(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = Store.create(tmp_path, SETTINGS)
    index.replace([], make_rows(vectors))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(index.table, "create_index", fail)
    with caplog.at_level(logging.WARNING):
        index.finish()
    assert "approximate search failed" in caplog.text and "no space left" in caplog.text
    assert not is_approximate(index)
    assert recall(index, vectors) == 1
