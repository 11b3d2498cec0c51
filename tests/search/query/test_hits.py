"""Queries to hits: against vectors made one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError, MediaNotFoundError
from perception_encoder.inference.collection import Collection, encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.query.hits import Hit, best_moment, find_hits
from perception_encoder.search.query.query import Query, encode_queries, media_query, text_query
from perception_encoder.search.web.sheets import Naming, query_sections
from tests.clips import clip, number_of, numbered


def find(encoder: Encoder, queries: list[Query], collection: Collection, top: int) -> list[list[Hit]]:
    return find_hits(encoder, queries, encode_queries(encoder, queries), collection, top)


@pytest.fixture
def collection(encoder: Encoder, pictures: list[Path]) -> Collection:
    pictures[3].write_bytes(b"")
    return encode_media(encoder, list_media_items([pictures[0].parent]), lambda done: None)


def test_hits_come_best_first(encoder: Encoder, collection: Collection) -> None:
    texts = ["a cat", "a red mug on a table"]
    results = find(encoder, [text_query(text) for text in texts], collection, top=5)
    for text, hits in zip(texts, results, strict=True):
        scores = collection.vectors @ encoder.encode_texts(text)
        assert [collection.items.index(hit.item) for hit in hits] == np.argsort(-scores)[:5].tolist()
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[:-6:-1], atol=1e-5)
        assert {hit.time for hit in hits} == {None}


def test_a_picture_finds_its_copy_but_not_itself(encoder: Encoder, pictures: list[Path]) -> None:
    copy = pictures[0].with_name("copy.jpg")
    copy.write_bytes(pictures[7].read_bytes())
    collection = encode_media(encoder, list_media_items([pictures[0].parent]), lambda done: None)
    (hits,) = find(encoder, [media_query(str(pictures[7]))], collection, top=3)
    assert hits[0].item.source == copy and hits[0].score == pytest.approx(1, abs=1e-3)
    assert pictures[7] not in [hit.item.source for hit in hits]
    assert len(hits) == 3


def test_the_top_hits_are_as_many_as_asked_for_with_many_queries(encoder: Encoder, collection: Collection) -> None:
    queries = [media_query(str(item.source)) for item in collection.items]
    assert {len(hits) for hits in find(encoder, queries, collection, top=18)} == {18}


@pytest.mark.parametrize(("source", "error"), [("missing.jpg", MediaNotFoundError), ("empty.jpg", MediaDecodeError)])
def test_a_bad_query_is_an_error(
    source: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(error, match=source):
        media_query(source)


def test_a_damaged_query_and_an_empty_one_are_errors(encoder: Encoder, pictures: list[Path]) -> None:
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])
    with pytest.raises(MediaDecodeError, match=r"00\.jpg"):
        encode_queries(encoder, [text_query("a cat"), media_query(str(pictures[0]))])
    with pytest.raises(ConfigError, match="empty"):
        text_query("  ")


def test_a_text_is_a_text_even_where_a_file_has_its_name(
    encoder: Encoder, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    found = encode_queries(encoder, [text_query("00.jpg")])
    np.testing.assert_allclose(found, encoder.encode_texts(["00.jpg"]), atol=1e-5)


@pytest.fixture
def video(encoder: Encoder, tmp_path: Path) -> Collection:
    """A clip of 60 frames, 25 a second."""
    (tmp_path / "clip.mp4").write_bytes(clip(60))
    return encode_media(encoder, list_media_items([tmp_path / "clip.mp4"]), lambda done: None)


def test_a_video_is_a_hit_with_the_time_that_fits_best(encoder: Encoder, video: Collection, tmp_path: Path) -> None:
    numbered(33).save(tmp_path / "frame.png")
    query = media_query(str(tmp_path / "frame.png"))
    ((hit,),) = find(encoder, [query], video, top=5)
    assert video.is_video == [True]
    assert hit.time == pytest.approx(33 / 25)
    (section,) = query_sections([query], [[hit]], tmp_path / "index.html")
    (tile,) = section.tiles
    assert tile.time == hit.time and number_of(tile.image) == 33
    assert tile.caption == tile.link == "clip.mp4"
    assert section.heading == "like frame.png" and section.picture is not None


def test_files_that_vanish_have_no_preview_and_no_time(encoder: Encoder, video: Collection, tmp_path: Path) -> None:
    vector = encoder.encode_texts("a cat")
    (hits,) = find(encoder, [text_query("a cat")], video, top=1)
    (tmp_path / "clip.mp4").unlink()
    assert best_moment(encoder, video.items[0], vector) is None
    (section,) = query_sections([text_query("a cat")], [hits], tmp_path / "index.html")
    assert [tile.image for tile in section.tiles] == [None]
    assert section.heading == "“a cat”" and section.picture is None


def test_named_items_are_sorted_by_label_and_probability(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    collection = encode_media(encoder, list_media_items([tmp_path]), lambda done: None)
    guesses = [[("dog", 0.6), ("cat", 0.4)], [("cat", 0.7), ("dog", 0.3)], [("dog", 0.9), ("cat", 0.1)]]
    vectors = dict(zip(("cat", "dog"), encoder.encode_texts(["cat", "dog"]), strict=True))
    naming = Naming(encoder, collection, guesses, vectors)
    page = tmp_path / "index.html"
    sections = {section.heading: (section.note, list(section.tiles)) for section in naming.sections(page)}
    assert list(sections) == ["dog", "cat"]
    assert [(note, [tile.caption for tile in tiles]) for note, tiles in sections.values()] == [
        ("2 of 3", ["c.png", "a.png"]),
        ("1 of 3", ["b.png"]),
    ]
    first = sections["dog"][1][0]
    assert (first.figure, first.share, first.details) == ("90%", 0.9, ("cat 10%",))
    flat = list(naming.section("Named", "", page).tiles)
    assert [(tile.caption, tile.details) for tile in flat][:1] == [("dog", ("a.png", "cat 40%"))]
