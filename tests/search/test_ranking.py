"""Ranking over indexes and plain files, against vectors made one by one; and near-duplicates, pair by pair."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.formats.listing import Item
from perception_encoder.inference.collection import Collection, encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search import ranking
from perception_encoder.search.ranking import (
    Hit,
    SearchResult,
    best_hits,
    best_moment,
    find_duplicates,
    group_duplicates,
    may_be_hit,
    query_vectors,
    rank_files,
)
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.vectors import Vectors
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search.terms import Query, media_query, parse_words, text_query
from perception_encoder.search_page.contact_sheet import query_sections
from tests.clips import clip, number_of, numbered
from tests.search.indexes import SETTINGS, assert_same_ranking, make_index, make_rows, unit_vectors


def find(encoder: Encoder, queries: list[Query], collection: Collection, top: int) -> list[list[Hit]]:
    pairs = zip(queries, query_vectors(encoder, queries), strict=True)
    return [rank_files(encoder, collection, query, vector, top) for query, vector in pairs]


def rank(stores: list[IndexStore], queries: list[Query], vectors: np.ndarray, top: int) -> list[list[Hit]]:
    """The hits of each query, without the query itself."""
    keeps = [partial(may_be_hit, query, lambda path: False) for query in queries]
    return [best_hits(stores, vector, top, keep=keep) for keep, vector in zip(keeps, vectors, strict=True)]


@pytest.fixture
def collection(encoder: Encoder, pictures: list[Path]) -> Collection:
    pictures[3].write_bytes(b"")
    return encode_media(encoder, list_media_items([pictures[0].parent]))


def test_hits_come_best_first(encoder: Encoder, collection: Collection) -> None:
    texts = ["a cat", "a red mug on a table"]
    results = find(encoder, [text_query(text) for text in texts], collection, top=5)
    for text, hits in zip(texts, results, strict=True):
        scores = collection.vectors @ encoder.encode_texts(text)
        expected = [Hit(item=collection.items[row], score=float(scores[row])) for row in np.argsort(-scores)[:5]]
        assert_same_ranking(hits, expected)
        assert {hit.time for hit in hits} == {None}


def test_an_index_and_its_files_give_the_same_hits(
    encoder: Encoder, collection: Collection, pictures: list[Path], checkpoint: Path
) -> None:
    index = make_index(pictures[0].parent, checkpoint)
    queries = [text_query("a cat"), media_query(str(pictures[7])), parse_words(["2:dog", "-", str(pictures[9])])]
    vectors = query_vectors(encoder, queries)
    assert len(collection.items) == len(index) == 19
    for top in (3, 19, 100):
        by_files, by_index = find(encoder, queries, collection, top), rank([index], queries, vectors, top)
        for of_files, of_index, size in zip(by_files, by_index, (19, 18, 18), strict=True):
            assert len(of_files) == len(of_index) == min(top, size)
            np.testing.assert_allclose(
                [hit.score for hit in of_files], [hit.score for hit in of_index], atol=2e-2
            )  # the index was encoded in bfloat16, where that is fast
            assert {hit.row is not None for hit in of_index} == {True}
    assert all(hit.item.source != pictures[7] for results in (by_files, by_index) for hit in results[1])
    assert best_hits([index], vectors[1], 2)[0].item.source == pictures[7]


def test_several_indexes_are_ranked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of the best rows are the query's own, and no more than may be needed is looked at."""
    nearest, requested = Vectors.nearest, list[int]()

    def counted(of: Vectors, vector: np.ndarray, count: int, *rest: object) -> object:
        requested.append(count)
        return nearest(of, vector, count, *rest)

    monkeypatch.setattr(Vectors, "nearest", counted)
    vectors, query = unit_vectors(200, 0), unit_vectors(1, 1)[0]
    stores = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        stores.append(store := IndexWriter.create(tmp_path / str(number), SETTINGS))
        store.replace([], make_rows(vectors[number::2], 1000 * number))
    expected = [f"{1000 * (row % 2) + row // 2}" for row in np.argsort(-vectors @ query)]
    for owned, most in ((0, 50), (1, 50), (3, 50), (90, 99), (150, 99), (198, 200)):  # of 100 rows an index
        requested.clear()

        class Own(Query):
            """A query that consists of the best rows."""

            def contains(self, item: Item, row: IndexRow) -> bool:
                return row.id in expected[:owned]  # noqa: B023

        own = Own(**vars(text_query("x")))
        (hits,) = rank(stores, [own], query[None], top=6)
        assert [hit.id for hit in hits] == expected[owned : owned + 6]
        assert 6 <= max(requested) <= most
        assert [hit.id for hit in best_hits(stores, query, 6)] == expected[:6]


@pytest.mark.parametrize("burst_first", [True, False])
def test_a_burst_in_one_index_hides_nothing_behind_it(tmp_path: Path, burst_first: bool) -> None:
    """The second best of one index follows a burst of 60; another index has only worse ones."""
    axes = np.eye(SETTINGS["dimension"], dtype=np.float32)
    cosines = {"burst": [0.99 + 0.0001 * number for number in range(60)] + [0.6], "worse": [0.3, 0.2]}
    stores = []
    for number, (name, values) in enumerate(cosines.items()):
        (tmp_path / name).mkdir()
        store = IndexWriter.create(tmp_path / name, SETTINGS)
        vectors = [axes[0] * value + axes[number + 1 + (value < 0.5)] * np.sqrt(1 - value**2) for value in values]
        store.replace([], make_rows(np.stack(vectors), 1000 * number))
        stores.append(store)
    hits = best_hits(stores if burst_first else stores[::-1], axes[0], 2, collapse=True)
    assert [round(hit.score, 2) for hit in hits] == [1.0, 0.6] and 30 <= hits[0].similar <= 59


def test_a_query_of_several_terms_is_their_weighted_sum(encoder: Encoder, pictures: list[Path]) -> None:
    query = parse_words(["2:dog", "-", "snow", "+", f"0.5:{pictures[0]}"])
    dog, snow, image = *encoder.encode_texts(["dog", "snow"]), encoder.encode_images(pictures[0])
    expected = 2 * dog - snow + 0.5 * image
    (vector,) = query_vectors(encoder, [query])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_terms_that_cancel_and_a_damaged_image_are_errors(encoder: Encoder, pictures: list[Path]) -> None:
    with pytest.raises(ConfigError, match="the terms of 'dog - dog' cancel"):
        query_vectors(encoder, [parse_words(["dog", "-", "dog"])])
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])
    with pytest.raises(MediaDecodeError, match=r"00\.jpg"):
        query_vectors(encoder, [text_query("a cat"), media_query(str(pictures[0]))])


@pytest.fixture
def video(encoder: Encoder, tmp_path: Path) -> Collection:
    """A clip of 60 frames, 25 a second."""
    (tmp_path / "clip.mp4").write_bytes(clip(60))
    return encode_media(encoder, list_media_items([tmp_path / "clip.mp4"]))


def result(queries: list[Query], hits: list[Hit]) -> SearchResult:
    return SearchResult(model="", searched=1, queries=tuple(queries), by_query=(tuple(hits),))


def test_a_video_is_a_hit_with_the_time_that_fits_best(encoder: Encoder, video: Collection, tmp_path: Path) -> None:
    numbered(33).save(tmp_path / "frame.png")
    query = media_query(str(tmp_path / "frame.png"))
    ((hit,),) = find(encoder, [query], video, top=5)
    assert video.is_video == [True]
    assert hit.time == pytest.approx(33 / 25)
    (section,) = query_sections(result([query], [hit]), tmp_path / "index.html")
    (tile,) = section.tiles
    assert tile.time == hit.time and number_of(tile.image) == 33
    assert tile.caption == tile.link == "clip.mp4"
    assert section.heading == "like frame.png" and section.image is not None


def test_a_video_that_was_deleted_has_no_time_and_no_preview(
    encoder: Encoder, video: Collection, tmp_path: Path
) -> None:
    query = text_query("a cat")
    (hits,) = find(encoder, [query], video, top=5)
    (tmp_path / "clip.mp4").unlink()
    assert best_moment(encoder, video.items[0], encoder.encode_texts("a cat")) is None
    (section,) = query_sections(result([query], hits), tmp_path / "index.html")
    assert [tile.image for tile in section.tiles] == [None]
    assert section.heading == "“a cat”" and section.image is None


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(vectors: np.ndarray, threshold: float) -> set[frozenset[int]]:
    groups = [{row} for row in range(len(vectors))]
    for row in range(len(vectors)):
        for other in range(row):
            if vectors[row] @ vectors[other] >= threshold:
                ours, theirs = (next(group for group in groups if member in group) for member in (row, other))
                if ours is not theirs:
                    ours |= theirs
                    groups.remove(theirs)
    return {frozenset(group) for group in groups if len(group) > 1}


@pytest.mark.parametrize("block", [1, 300, 1 << 24])
def test_groups_are_those_found_pair_by_pair(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BLOCK_CELLS", block)
    vectors = unit(np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32))
    groups = group_duplicates(vectors, 0.995)
    assert set(map(frozenset, groups)) == by_hand(vectors, 0.995)
    assert len(groups) > 5
    assert groups == sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group[0]))


def test_unlike_rows_are_in_no_group() -> None:
    assert group_duplicates(np.eye(4, dtype=np.float32)) == []
    assert group_duplicates(np.empty((0, 4), np.float32)) == []


def test_duplicates_are_found_within_and_across_indexes(
    tmp_path: Path, checkpoint: Path, draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = lambda vectors, *rest: group_duplicates(vectors, 0.9999)  # noqa: E731  (a random model finds all alike)
    monkeypatch.setattr(ranking, "group_duplicates", exact)
    indexes = []
    for directory, numbers in (("one", (1, 1, 2)), ("two", (1, 3))):
        (tmp_path / directory).mkdir()
        for at, number in enumerate(numbers):
            draw(40 * number).save(tmp_path / directory / f"{at}.png")
        indexes.append(make_index(tmp_path / directory, checkpoint))
    (group,) = find_duplicates(indexes)
    assert {hit.item.source for hit in group} == {tmp_path / name for name in ("one/0.png", "one/1.png", "two/0.png")}
    assert [hit.score for hit in group] == pytest.approx([1, 1, 1], abs=1e-2)
    (alone,) = find_duplicates(indexes[:1])
    assert len(alone) == 2 and all(hit.row.thumbnail == b"" for hit in alone)
    assert all(hit.row.thumbnail for hit in find_duplicates(indexes[:1], thumbnails=True)[0])
    assert find_duplicates(indexes, "path = '0.png'")[0] and find_duplicates(indexes, "path = '1.png'") == []
    assert find_duplicates(indexes, "path = 'none'") == []
