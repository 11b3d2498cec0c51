"""Approximate search: nearly the exact hits with exact similarities, through additions, replacements and removals."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.search.storage import vectors as module
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.store import STORE
from perception_encoder.search.storage.writer import IndexWriter
from tests.search.indexes import DIMENSION, SETTINGS, make_rows, unit_vectors

COUNT = 3000


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand vectors are many."""
    monkeypatch.setattr(module, "LARGE_BYTES", 1000 * DIMENSION * 4)
    monkeypatch.setattr(module, "EXACT_ROWS", 100)
    monkeypatch.setattr(module, "SHORTLIST", 10)


@pytest.fixture
def vectors() -> np.ndarray:
    return unit_vectors(COUNT, 0)


@pytest.fixture
def index(tmp_path: Path, vectors: np.ndarray) -> IndexWriter:
    """Three thousand rows in three commits."""
    index = IndexWriter.create(tmp_path, SETTINGS)
    for start in range(0, COUNT, 1000):
        index.replace([], make_rows(vectors[start : start + 1000], start))
    index.finish()
    return index


def is_approximate(index: IndexWriter) -> bool:
    with index._reading() as reading:
        return reading.vectors.codes is not None


def recall(
    index: IndexWriter, vectors: np.ndarray, where: str | None = None, allowed: np.ndarray | None = None
) -> float:
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


def test_hits_are_nearly_the_exact_ones(index: IndexWriter, vectors: np.ndarray) -> None:
    assert is_approximate(index)
    assert recall(index, vectors) >= 0.99


def test_conditions_hold(index: IndexWriter, vectors: np.ndarray) -> None:
    videos = np.arange(COUNT) % 4 == 0
    assert recall(index, vectors, "kind = 'video'", videos) >= 0.99
    rare = "path IN ('5.jpg', '77.jpg', '2999.jpg')"
    assert {row.id for _, row in index.nearest(unit_vectors(1, 2)[0], 10, rare)} == {"5", "77", "2999"}
    with pytest.raises(ConfigError, match="is invalid"):
        index.nearest(unit_vectors(1, 2)[0], 10, "colour = 'red'")


@pytest.mark.parametrize("finished", [False, True])
def test_new_rows_are_found_at_once(index: IndexWriter, vectors: np.ndarray, finished: bool) -> None:
    added = unit_vectors(500, 3)
    index.replace([], make_rows(added, COUNT))
    if finished:
        index.finish()
    for number in (0, 250, 499):
        assert index.nearest(added[number], 1)[0][1].id == str(COUNT + number)
    assert recall(index, np.concatenate([vectors, added])) >= 0.99


@pytest.mark.parametrize("finished", [False, True])
def test_removed_and_replaced_rows_are_found_no_more(index: IndexWriter, vectors: np.ndarray, finished: bool) -> None:
    index.replace([f"{number}.jpg" for number in range(0, COUNT, 3)], [])
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


def test_vectors_are_written_anew_when_many_are_of_no_row(index: IndexWriter, vectors: np.ndarray) -> None:
    reader = IndexWriter.open(index.directory)
    assert recall(reader, vectors) >= 0.99
    index.replace([f"{number}.jpg" for number in range(1000)], [])
    assert recall(reader, vectors, allowed=np.arange(COUNT) >= 1000) >= 0.99
    index.finish()
    files = {path.name for path in (index.directory / STORE).iterdir()}
    assert files == {"index.sqlite", "vectors-2.f32", "codes-2.tv", "seal.json"}
    assert (index.directory / STORE / "vectors-2.f32").stat().st_size == vectors[1000:].nbytes
    for opened in (index, reader, IndexWriter.open(index.directory, whole=True)):
        assert is_approximate(opened) and recall(opened, vectors, allowed=np.arange(COUNT) >= 1000) >= 0.99


def test_a_kill_between_the_new_vectors_and_their_commit_loses_nothing(
    index: IndexWriter, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.replace([f"{number}.jpg" for number in range(1000)], [])

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("perception_encoder.search.storage.writer._put", stop)
        index.finish()
    here = np.arange(COUNT) >= 1000
    assert recall(IndexWriter.open(index.directory), vectors, allowed=here) >= 0.99
    index.finish()
    assert recall(IndexWriter.open(index.directory, whole=True), vectors, allowed=here) >= 0.99
    assert not (index.directory / STORE / "vectors-1.f32").exists()


def test_an_index_that_shrinks_loses_its_compressed_vectors(index: IndexWriter, vectors: np.ndarray) -> None:
    index.replace([f"{number}.jpg" for number in range(2500)], [])
    index.finish()
    assert not list((index.directory / STORE).glob("codes*"))
    assert recall(index, vectors, allowed=np.arange(COUNT) >= 2500) == 1


def test_another_thread_may_search_with_another_condition(index: IndexWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the index may change between a condition and the search."""
    query, find = unit_vectors(1, 2)[0], IndexWriter._find
    expected = [row.id for _, row in index.nearest(query, 10, "kind = 'video'")]

    def overtaken(self: IndexWriter, *arguments: Any) -> object:
        slots = find(self, *arguments)
        with monkeypatch.context() as patch:
            patch.setattr(IndexWriter, "_find", find)
            IndexWriter.nearest(self, query, 10, "kind = 'image'")
            index.replace([f"{number}.jpg" for number in range(0, COUNT, 3)], [])
            index.finish()
        return slots

    monkeypatch.setattr(IndexWriter, "_find", overtaken)
    index.begin()
    assert [row.id for _, row in IndexWriter.open(index.directory).nearest(query, 10, "kind = 'video'")] == expected


@pytest.mark.parametrize("harm", ["cut", "missing", "library", "version"])
def test_without_compressed_vectors_every_row_is_compared(
    harm: str,
    index: IndexWriter,
    vectors: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, here = index.directory / STORE / "codes-1.tv", np.arange(COUNT) != 5
    if harm in ("library", "version"):
        other = None if harm == "library" else types.SimpleNamespace(TurboQuantIndex=object)
        monkeypatch.setitem(sys.modules, "turbovec", other)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    opened = IndexWriter.open(index.directory)
    assert not is_approximate(opened) and recall(opened, vectors) == 1
    assert (harm in ("library", "version")) == ("compressed vectors cannot be read" in caplog.text)
    opened.replace(["5.jpg"], [])
    opened.finish()
    assert recall(opened, vectors, allowed=here) >= 0.99
    if harm in ("library", "version"):
        assert "vectors cannot be compressed" in caplog.text and not file.exists()
        monkeypatch.undo()
        monkeypatch.setattr(module, "LARGE_BYTES", 1000 * DIMENSION * 4)
        IndexWriter.open(index.directory).finish()
    assert is_approximate(IndexWriter.open(index.directory))  # it came back


def test_more_hits_than_there_are_rows(index: IndexWriter, vectors: np.ndarray) -> None:
    index.replace([f"{number}.jpg" for number in range(0, COUNT, 7)], [])
    index.finish()
    here = np.arange(COUNT) % 7 > 0
    for where, allowed in ((None, here), ("kind = 'video'", here & (np.arange(COUNT) % 4 == 0))):
        rows = [int(row.id) for _, row in index.nearest(unit_vectors(1, 2)[0], 2 * COUNT, where)]
        assert is_approximate(index) and sorted(rows) == np.flatnonzero(allowed).tolist()
