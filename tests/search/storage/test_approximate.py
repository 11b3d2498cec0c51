"""Approximate search: nearly the exact hits with exact similarities, through additions, replacements and removals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.storage import snapshot
from perception_encoder.search.storage.rows import IndexRow, among
from perception_encoder.search.storage.store import STORE, Store

DIMENSION, COUNT = 64, 3000
SETTINGS = {"source": "none", "model": "none", "weight_hash": "none", "dimension": DIMENSION, "moments": {}}


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand vectors are many."""
    monkeypatch.setattr(snapshot, "LARGE_BYTES", 1000 * DIMENSION * 4)
    monkeypatch.setattr(snapshot, "_FEW", 100)
    monkeypatch.setattr(snapshot, "_SHORTLIST", 10)


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
    """Three thousand rows in three commits."""
    index = Store.create(tmp_path, SETTINGS)
    for start in range(0, COUNT, 1000):
        index.replace([], make_rows(vectors[start : start + 1000], start))
    index.finish()
    return index


def is_approximate(index: Store) -> bool:
    return index._snapshot is not None and index._snapshot._codes is not None


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


def test_thumbnails_are_those_of_the_hits(index: Store, vectors: np.ndarray) -> None:
    images = [IndexRow(**{**vars(row), "thumbnail": row.id.encode()}) for row in make_rows(vectors)]
    index.replace([row.path for row in images], images)
    index.finish()
    hits = [row for _, row in index.nearest(unit_vectors(1, 2)[0], 10, thumbnails=True)]
    assert [row.thumbnail.decode() for row in hits] == [row.id for row in hits]


def test_an_update_appends_the_vectors_of_new_rows(index: Store, vectors: np.ndarray) -> None:
    place = index.directory / STORE
    before = (place / "vectors.f32").read_bytes()
    index.remove(["5.jpg", "6.jpg"])
    added = unit_vectors(100, 3)
    index.replace([], make_rows(added, COUNT))
    index.finish()
    after = (place / "vectors.f32").read_bytes()
    assert after[: len(before)] == before and len(after) == len(before) + added.nbytes
    reopened = Store.open(index.directory, whole=True)
    here = np.ones(COUNT + 100, bool)
    here[5:7] = False
    assert is_approximate(reopened) and recall(reopened, np.concatenate([vectors, added]), allowed=here) >= 0.99


def test_vectors_are_written_anew_when_many_are_of_no_row(index: Store, vectors: np.ndarray) -> None:
    index.remove([f"{number}.jpg" for number in range(1000)])
    index.finish()
    assert (index.directory / STORE / "vectors.f32").stat().st_size == vectors[1000:].nbytes
    assert recall(index, vectors, allowed=np.arange(COUNT) >= 1000) >= 0.99


def test_an_index_that_shrinks_loses_its_compressed_vectors(index: Store, vectors: np.ndarray) -> None:
    index.remove([f"{number}.jpg" for number in range(2500)])
    index.finish()
    assert not (index.directory / STORE / "vectors.tv").exists()
    assert recall(index, vectors, allowed=np.arange(COUNT) >= 2500) == 1


def test_a_reader_keeps_to_its_commit(index: Store, vectors: np.ndarray) -> None:
    """Its compressed vectors are loaded by the first search, when newer ones may lie in their place."""
    reader = Store.open(index.directory)
    added = unit_vectors(500, 3)
    index.remove([f"{number}.jpg" for number in range(1000)])
    index.replace([], make_rows(added, COUNT))
    index.finish()
    assert recall(reader, vectors) == 1 and not is_approximate(reader)
    reader.refresh()
    allowed = np.arange(COUNT + 500) >= 1000
    assert recall(reader, np.concatenate([vectors, added]), allowed=allowed) >= 0.99 and is_approximate(reader)


@pytest.mark.parametrize("harm", ["cut", "missing", "library"])
def test_without_compressed_vectors_every_row_is_compared(
    harm: str, index: Store, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = index.directory / STORE / "vectors.tv"
    if harm == "library":
        monkeypatch.setitem(sys.modules, "turbovec", None)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    opened = Store.open(index.directory)
    assert not is_approximate(opened)
    assert (harm == "library") == ("comparing every row instead" in caplog.text)
    assert recall(opened, vectors) == 1
