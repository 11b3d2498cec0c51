"""Galleries of files: videos get the time of their best frame. Those of indexes: see test_search."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.inference.collection import Collection, encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.ranking import FileGallery, Hit, SearchResult, best_moment, query_vectors, rank
from perception_encoder.search.terms import Query, media_query, text_query
from perception_encoder.search.web.contact_sheet import query_sections
from tests.clips import clip, number_of, numbered


@pytest.fixture
def video(encoder: Encoder, tmp_path: Path) -> Collection:
    """A clip of 60 frames, 25 a second."""
    (tmp_path / "clip.mp4").write_bytes(clip(60))
    return encode_media(encoder, list_media_items([tmp_path / "clip.mp4"]))


def result(queries: list[Query], hits: list[Hit]) -> SearchResult:
    return SearchResult(model="", searched=1, queries=tuple(queries), by_query=(tuple(hits),))


def find(encoder: Encoder, query: Query, collection: Collection) -> list[Hit]:
    (hits,) = rank([FileGallery(encoder, collection)], [query], query_vectors(encoder, [query]), top=5)
    return hits


def test_a_video_is_a_hit_with_the_time_that_fits_best(encoder: Encoder, video: Collection, tmp_path: Path) -> None:
    numbered(33).save(tmp_path / "frame.png")
    query = media_query(str(tmp_path / "frame.png"))
    (hit,) = find(encoder, query, video)
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
    hits = find(encoder, query, video)
    (tmp_path / "clip.mp4").unlink()
    assert best_moment(encoder, video.items[0], encoder.encode_texts("a cat")) is None
    (section,) = query_sections(result([query], hits), tmp_path / "index.html")
    assert [tile.image for tile in section.tiles] == [None]
    assert section.heading == "“a cat”" and section.image is None
