"""Approximate search: nearly the exact hits with exact similarities, through additions, replacements and removals."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.storage import snapshot
from perception_encoder.search.storage.rows import IndexRow, among
from perception_encoder.search.storage.snapshot import Snapshot
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


def exchange_a_part(index: Store) -> np.ndarray:
    """Remove the first 1,000 rows, add 500 and commit; return the vectors of those."""
    added = unit_vectors(500, 3)
    index.remove([f"{number}.jpg" for number in range(1000)])
    index.replace([], make_rows(added, COUNT))
    index.finish()
    return added


def test_a_reader_keeps_to_its_commit(index: Store, vectors: np.ndarray) -> None:
    """Its compressed vectors are loaded by the first search, when newer ones may lie in their place."""
    reader = Store.open(index.directory)
    added = exchange_a_part(index)
    assert recall(reader, vectors) == 1 and not is_approximate(reader)
    reader.refresh()
    allowed = np.arange(COUNT + 500) >= 1000
    assert recall(reader, np.concatenate([vectors, added]), allowed=allowed) >= 0.99 and is_approximate(reader)


def test_a_condition_is_not_looked_up_in_another_commit(index: Store, vectors: np.ndarray) -> None:
    """A compacted table has other numbers of rows than the snapshot of a reader that opens it only now."""
    reader = Store.open(index.directory)
    added = exchange_a_part(index)
    numbers = np.arange(COUNT + 500)
    videos = (numbers >= 1000) & (numbers % 4 == 0)
    assert recall(reader, np.concatenate([vectors, added]), "kind = 'video'", videos) == 1
    assert recall(reader, vectors) == 1  # without a condition, still those of its commit


@pytest.mark.parametrize("finished", [False, True])
def test_another_thread_may_refresh_during_a_search(
    finished: bool, index: Store, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, matching = Store.open(index.directory), Snapshot.matching
    query, videos = unit_vectors(1, 2)[0], "kind = 'video'"
    expected = [row.id for _, row in reader.nearest(query, 10, videos)]

    def then_refresh(self: Snapshot, *arguments: Any) -> object:
        found = matching(self, *arguments)
        index.remove([f"{number}.jpg" for number in range(0, COUNT, 3)])
        if finished:
            index.finish()
        reader.refresh()
        return found

    monkeypatch.setattr(Snapshot, "matching", then_refresh)
    assert [row.id for _, row in reader.nearest(query, 10, videos)] == expected


def test_two_threads_may_search_with_different_conditions(index: Store) -> None:
    opened = Snapshot(index.directory / STORE, DIMENSION, "")

    def numbered(*numbers: int) -> pa.Table:
        return opened.rows.take(pa.array(numbers))

    class Overtaken(str):
        """Another search comes between when it is compared with the condition of the last search."""

        def __ne__(self, other: object) -> bool:
            opened.matching("another", lambda: numbered(7))
            return str.__ne__(self, other)

        __hash__ = str.__hash__

    opened.matching("one", lambda: numbered(3, 1))
    found = opened.matching(Overtaken("one"), lambda: numbered(3, 1))
    assert found is not None and found.tolist() == [1, 3]


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
    assert (harm == "library") == ("searches compare every row" in caplog.text)
    assert recall(opened, vectors) == 1


def test_another_version_of_the_library_is_done_without(
    index: Store, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "turbovec", types.SimpleNamespace(TurboQuantIndex=object))
    opened = Store.open(index.directory)
    assert recall(opened, vectors) == 1 and "compressed vectors cannot be read" in caplog.text
    opened.remove(["5.jpg"])
    opened.finish()
    assert "vectors cannot be compressed" in caplog.text and not (index.directory / STORE / "vectors.tv").exists()
    monkeypatch.setitem(sys.modules, "turbovec", None)
    opened.remove(["6.jpg"])
    opened.finish()
    assert "turbovec is not installed; run: pip install 'perception-encoder[search]" in caplog.text
    assert recall(opened, vectors, allowed=~np.isin(np.arange(COUNT), [5, 6])) == 1


def test_more_hits_than_there_are_rows(index: Store, vectors: np.ndarray) -> None:
    index.remove([f"{number}.jpg" for number in range(0, COUNT, 7)])
    index.finish()
    here = np.arange(COUNT) % 7 > 0
    for where, allowed in ((None, here), ("kind = 'video'", here & (np.arange(COUNT) % 4 == 0))):
        rows = [int(row.id) for _, row in index.nearest(unit_vectors(1, 2)[0], 2 * COUNT, where)]
        assert is_approximate(index) and sorted(rows) == np.flatnonzero(allowed).tolist()
