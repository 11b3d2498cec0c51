"""Words on the page: what the server answers to queries by meaning, by words or by both, and an image's lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from perception_encoder.errors import ConfigError
from perception_encoder.search.terms import parse_lines
from perception_encoder.search_page.library import MediaLibrary
from tests.search.indexes import paths, text_line, write_words

RECEIPT = [text_line("Café Zentral"), text_line("Total 41,20 €", 0.2, 0.5, 0.8, 0.55), text_line("Thank you")]


@pytest.fixture
def receipts(library: MediaLibrary, folder: Path, client: TestClient) -> TestClient:
    """A client of the page, with words in an image and in a moment of the video."""
    write_words(folder, {"04's <b>.jpg": RECEIPT, "clip.mp4": [text_line("TOTAL eclipse")]})
    library.index.refresh()
    return client


def hits(client: TestClient, *lines: str, **params: str) -> dict:
    return client.get("/api/hits", params={"q": lines, "count": 200, **params}).json()


def lines_of(client: TestClient, path: str, *lines: str, **params: str) -> list[dict]:
    tiles = hits(client, "text:a")["tiles"]
    tile = next(tile for tile in tiles if tile["path"] == path)
    return client.get(f"/api/words/{tile['id']}", params={"q": lines, **params}).json()["lines"]


def test_a_text_is_searched_by_both_or_by_one(receipts: TestClient) -> None:
    both, words, meaning = (hits(receipts, "text:total 41", by=by) for by in ("", "words", "meaning"))
    assert paths(both)[0] == "04's <b>.jpg" and both["tiles"][0]["why"] == 'words: "Total 41,20 €"'
    assert both["total"] == len(both["tiles"]) + sum(tile["similar"] for tile in both["tiles"])
    assert paths(words) == ["04's <b>.jpg"] and words["total"] is None and not words["more"]
    assert {tile["why"] for tile in meaning["tiles"]} == {""} and meaning["total"] == both["total"]
    assert [answer["only_words"] for answer in (both, words, meaning)] == [False, True, False]
    (named,) = hits(receipts, "text:04's", by="words")["tiles"]
    assert named["path"] == "04's <b>.jpg" and named["why"] == "name"


def test_what_a_text_says_itself_goes_before_the_switch(receipts: TestClient) -> None:
    assert paths(hits(receipts, 'text:"total 41"', by="meaning")) == ["04's <b>.jpg"]
    assert len(hits(receipts, "text:meaning:total", by="words")["tiles"]) > 2
    answer = receipts.get("/api/hits", params={"q": "text:a", "by": "sound"})
    assert answer.status_code == 400 and "by is 'sound'; it must be 'meaning' or 'words'" in answer.json()["error"]


def test_an_image_is_searched_by_meaning_whatever_the_switch(receipts: TestClient) -> None:
    tile = hits(receipts, "text:total 41", by="words")["tiles"][0]
    assert len(hits(receipts, f"like:{tile['id']}", by="words", similar="all")["tiles"]) == 13
    found = hits(receipts, "text:total", f"like:{tile['id']}", by="words")
    assert paths(found) == ["04's <b>.jpg", "clip.mp4"] and found["tiles"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "text", ['"total 41" + cat', "words:total - 2:meaning:snow", '2:"dog - cat" + cat', 'words:5" pipe', "a + b - c"]
)
def test_terms_that_the_page_writes_back_are_the_same_query(receipts: TestClient, text: str) -> None:
    """The page writes the field anew after a weight has changed."""
    answered = hits(receipts, f"text:{text}", by="words")["terms"]
    signs = [f"{'-' if term['weight'] < 0 else '+'} {abs(term['weight'])}:{term['what']}" for term in answered]
    queries = [parse_lines([f"text:{line}"], pytest.fail) for line in (text, " ".join(signs).removeprefix("+ "))]
    first, second = ([(term.weight, term.name, term.by) for term in query.terms] for query in queries)
    assert first == second


def test_lines_of_an_image_and_which_have_the_words(receipts: TestClient) -> None:
    path = "04's <b>.jpg"
    lines = lines_of(receipts, path, "text:total 41")
    assert [(line["text"], line["found"]) for line in lines] == [
        ("Café Zentral", False),
        ("Total 41,20 €", True),
        ("Thank you", False),
    ]
    assert lines[1]["box"] == [0.2, 0.5, 0.8, 0.5, 0.8, 0.55, 0.2, 0.55]
    for given in ([], ["text:meaning:total"], ["text:snow - total"]):
        assert not any(line["found"] for line in lines_of(receipts, path, *given)), given
    assert not any(line["found"] for line in lines_of(receipts, path, "text:total", by="meaning"))
    assert [line["found"] for line in lines_of(receipts, path, "text:cafe")] == [True, False, False]
    assert lines_of(receipts, "02's <b>.jpg", "text:total") == []
    assert [line["text"] for line in lines_of(receipts, "clip.mp4")] == ["TOTAL eclipse"]


@pytest.mark.security
def test_lines_need_a_signed_id_and_a_file_in_the_directory(
    receipts: TestClient, library: MediaLibrary, folder: Path, tmp_path: Path
) -> None:
    tile = hits(receipts, "text:total 41", by="words")["tiles"][0]
    assert receipts.get(f"/api/words/{tile['id'].partition('-')[0]}").status_code == 400
    (folder / tile["path"]).unlink()
    assert receipts.get(f"/api/words/{tile['id']}").status_code == 200, "the index still has them"
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / tile["path"]).symlink_to(tmp_path / "secret.jpg")
    assert receipts.get(f"/api/words/{tile['id']}").status_code == 400


def test_at_most_two_thousand_lines_are_sent(library: MediaLibrary, folder: Path, client: TestClient) -> None:
    write_words(folder, {"04's <b>.jpg": [text_line(f"word {number}") for number in range(2500)]})
    library.index.refresh()
    lines = lines_of(client, "04's <b>.jpg", "text:word")
    assert len(lines) == 2000 and all(line["found"] for line in lines)


def test_a_query_of_another_kind_cannot_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="by is 'image'"):
        parse_lines(["text:a"], pytest.fail).searched("image")
