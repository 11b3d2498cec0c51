"""`min_score` drops hits below a cosine similarity: in Python, on the command line and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search_page.library import open_library
from perception_encoder.search_page.server import create_page

QUERIES = ["a cat", {"a cat": 1, "snow": -1}]
INVALID = "the minimum score is 1.5; a cosine similarity must be from -1 to 1"


@pytest.fixture
def boundary(photos: Path, checkpoint: Path) -> float:
    """A score that seven of the indexed images reach as hits for "a cat"."""
    index = pe.open_index(photos, checkpoint)
    index.update()
    scores = [hit.score for hit in index.search("a cat", top=20)]
    return (scores[6] + scores[7]) / 2


def test_only_hits_that_reach_it_are_returned(photos: Path, encoder: Encoder, boundary: float) -> None:
    index, queries = pe.open_index(photos, encoder), [*QUERIES, photos / "00.jpg"]
    for search in (index.search, lambda queries, **options: pe.search_files(queries, photos, encoder, **options)):
        every = search(queries, top=20)
        for minimum in (boundary, every[0].score, 1.0, -1.0):
            found = search(queries, top=20, min_score=minimum)
            expected = [[hit.path for hit in hits if hit.score >= minimum] for hits in every.by_query]
            assert [[hit.path for hit in hits] for hits in found.by_query] == expected
        assert len(search("a cat", top=20, min_score=boundary)) == 7
        assert len(search("a cat", top=3, min_score=boundary)) == 3
        for minimum in (1.5, float("nan")):
            with pytest.raises(ConfigError, match="the minimum score is"):
                search(queries, min_score=minimum)


def test_no_match_is_one_line_and_an_empty_list(run_pe, photos: Path, checkpoint: Path, boundary: float) -> None:
    for files in ([photos], [*photos.rglob("*.jpg"), "--model", checkpoint, "--precision", "float32"]):
        run = run_pe("search", "a cat", *files, "--min-score", str(boundary), "--top", "20")
        assert run.status == 0 and run.stdout.count("\n") == 1 + 7 and "no match" not in run.stderr
        run = run_pe("search", "a cat", *files, "--min-score", "0.99")
        assert run.status == 0 and run.stdout.count("\n") == 1
        assert run.stderr.startswith("note: no match for “a cat”: nothing scores 0.99 or higher\n")
    assert run_pe("search", "a cat", photos, "--min-score", "0.99", "-0").stdout == ""
    (query,) = json.loads(run_pe("search", "a cat", photos, "--min-score", "0.99", "--json").stdout)["queries"]
    assert query == {"text": "a cat", "hits": []}
    run = run_pe("search", "a cat", photos, "--min-score", "1.5")
    assert run.status == 2 and run.stderr.startswith(f"error: {INVALID}")


def test_the_page_shows_what_reaches_it(photos: Path, boundary: float) -> None:
    with TestClient(create_page(open_library(photos)), base_url="http://localhost") as client:
        limited = {"q": "text:a cat", "min_score": str(boundary), "count": "10"}
        answer = client.get("/api/hits", params=limited).json()
        assert len(answer["tiles"]) == 7 and answer["more"] is False and answer["total"] is None
        first = client.get("/api/hits", params={**limited, "count": "5"}).json()
        second = client.get("/api/hits", params={**limited, "count": "5", "offset": "5"}).json()
        assert first["more"] is True and [*first["tiles"], *second["tiles"]] == answer["tiles"]
        assert client.get("/api/hits", params={**limited, "min_score": "0.99"}).json()["tiles"] == []
        assert client.get("/api/hits", params={"min_score": "0.99"}).json()["total"] == len(open_library(photos).index)
        for value, message in (("1.5", INVALID), ("high", "the minimum score is 'high'; it must be a number")):
            response = client.get("/api/hits", params={**limited, "min_score": value})
            assert response.status_code == 400 and message in response.json()["error"]
