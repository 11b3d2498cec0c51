"""Queries as they are typed, and their vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.search.query.query import encode_queries, media_query, parse_query, split_words, text_query
from tests.clips import clip


@pytest.mark.parametrize(
    ("words", "query", "files"),
    [
        (["a cat"], ["a cat"], []),
        (["a cat", "photos", "clips"], ["a cat"], ["photos", "clips"]),
        (["2:dog", "-", "snow", "photos"], ["2:dog", "-", "snow"], ["photos"]),
        (["dog", "+", "park", "-", "snow"], ["dog", "+", "park", "-", "snow"], []),
        (["dog", "-"], ["dog", "-"], []),
    ],
)
def test_words_are_parted_into_query_and_files(words: list[str], query: list[str], files: list[str]) -> None:
    assert split_words(words) == (query, files)


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (["a cat"], [("a cat", 1)]),
        (["2:dog", "-", "snow"], [("dog", 2), ("snow", -1)]),
        (["0.5:dog", "+", "10:30 train", "-", "3:a: b"], [("dog", 0.5), ("30 train", 10), ("a: b", -3)]),
        (["dog: 2"], [("dog: 2", 1)]),
        (["-1:dog", "+", "-0.5:snow"], [("dog", -1), ("snow", -0.5)]),
    ],
)
def test_terms_have_weights(words: list[str], terms: list[tuple[str, float]]) -> None:
    query = parse_query(words)
    assert [(term.what.name, term.weight) for term in query.terms] == terms
    assert query.name == " ".join(words)
    assert query.kind == ("text" if len(terms) == 1 else "query")


@pytest.mark.parametrize(("words", "said"), [(["dog", "-"], "another term"), (["dog", "+", " "], "empty")])
def test_half_a_query_is_an_error(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_query(words)


def test_a_query_of_several_terms_is_their_weighted_sum(encoder: Encoder, pictures: list[Path]) -> None:
    query = parse_query(["2:dog", "-", "snow", "+", f"0.5:{pictures[0]}"])
    dog, snow, picture = *encoder.encode_texts(["dog", "snow"]), encoder.encode_images(pictures[0])
    expected = 2 * dog - snow + 0.5 * picture
    (found,) = encode_queries(encoder, [query])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_missing_picture_is_a_text_and_a_folder_too(encoder: Encoder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    assert [parse_query([word]).kind for word in ("cat", "missing.jpg")] == ["text", "text"]


def test_terms_that_cancel_are_an_error(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="cancel"):
        encode_queries(encoder, [parse_query(["dog", "-", "dog"])])


def test_a_query_names_its_own_file_or_the_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(60))
    (tmp_path / "other.mp4").write_bytes(clip(10))

    def named(query: str, start: float | None, end: float | None, source: Path = path) -> bool:
        return media_query(query).names(Item("x", "x", source, start, end))

    assert named(str(path), None, None) and named(str(path), 1.0, 2.0)
    assert not named(str(path), None, None, tmp_path / "other.mp4")
    assert named(f"{path}@1.5s", 1.0, 2.0) and named(f"{path}@1.5s", None, None)
    assert not named(f"{path}@2.1s", 1.0, 2.0)
    assert not text_query("clip.mp4").names(Item("x", "x", path))
