"""`only_matches` drops hits below the calibrated probability, in Python, on the command line and on the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import perception_encoder as pe
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.calibration import MATCH, Calibration
from perception_encoder.search.web.library import open_library
from perception_encoder.search.web.server import create_page


@pytest.fixture
def split(photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of hits that match "a cat" by a curve which separates the indexed images; the others do not."""
    index = pe.open_index(photos, checkpoint)
    index.update()
    scores = [hit.score for hit in index.search("a cat", top=20)]
    use_curve(monkeypatch, (scores[6] + scores[7]) / 2)
    return 7


def use_curve(monkeypatch: pytest.MonkeyPatch, boundary: float) -> None:
    """Let hits match whose cosine is above a boundary."""
    curve = Calibration(slope=1e5, midpoint=boundary)
    monkeypatch.setattr("perception_encoder.search.ranking.read_calibration", lambda index: curve)


def test_only_probable_hits_are_returned(photos: Path, encoder: Encoder, split: int) -> None:
    index = pe.open_index(photos, encoder)
    every, matching = (index.search("a cat", top=20, only_matches=only) for only in (False, True))
    assert [hit.path for hit in matching] == [hit.path for hit in every][:split] and every.dropped == ()
    assert [hit.path for hit in matching.dropped[0]] == [hit.path for hit in every][split:]
    assert all((hit.probability or 0) >= MATCH for hit in matching)
    assert len(index.search("a cat", top=3, only_matches=True)) == 3
    assert not index.search("a cat", only_matches=True, where="path = 'none'")


def test_only_single_texts_have_probabilities(
    run_pe, photos: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, split: int
) -> None:
    index = pe.open_index(photos, encoder)
    for query in (photos / "00.jpg", {"a cat": 1, "snow": -1}):
        with pytest.raises(
            ConfigError, match="without probabilities: only the hits of a single text have one, not tho"
        ):
            index.search(query, only_matches=True)
    monkeypatch.setattr("perception_encoder.search.ranking.read_calibration", lambda index: None)
    run = run_pe("search", "a cat", photos, "--only-matches")
    assert run.status == 2 and run.stderr.count("\n") == 1 and "this index has none; the built-in model" in run.stderr
    run = run_pe("search", "a cat", photos / "00.jpg", "--only-matches")
    assert run.status == 2 and "--only-matches need an index" in " ".join(run.stderr.split())


def test_no_match_is_said_with_the_best_probability(
    run_pe, photos: Path, monkeypatch: pytest.MonkeyPatch, split: int
) -> None:
    run = run_pe("search", "a cat", photos, "--only-matches", "--top", "20")
    assert run.status == 0 and run.stdout.count("\n") == 1 + split and "no match" not in run.stderr
    use_curve(monkeypatch, 2.0)
    run = run_pe("search", "a cat", photos, "--only-matches")
    assert run.status == 0 and run.stdout.count("\n") == 1
    wanted = f"note: no match for “a cat”: the best hit has a probability of under 1%, and matches need {MATCH:.0%}\n"
    assert run.stderr.startswith(wanted)
    run = run_pe("search", "a cat", photos, "--only-matches", "--where", "path = 'none'")
    assert run.status == 0 and run.stderr.startswith("note: no hits for “a cat”\n")


def test_the_page_shows_only_matches(photos: Path, monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    with TestClient(create_page(open_library(photos)), base_url="http://localhost") as client:
        assert 'id="matches"' in client.get("/").text
        only = {"q": "text:a cat", "matches": "only", "count": "10"}
        answer = client.get("/api/hits", params=only).json()
        assert len(answer["tiles"]) == split and answer["no_match"] is None and answer["more"] is False
        assert len(client.get("/api/hits", params={**only, "count": "5"}).json()["tiles"]) == 5
        use_curve(monkeypatch, 2.0)
        answer = client.get("/api/hits", params=only).json()
        assert answer["tiles"] == [] and answer["no_match"].startswith("the best hit has a probability of under 1%")
        response = client.get("/api/hits", params={**only, "q": "text:a cat + snow"})
        assert response.status_code == 400 and "only the hits of a single text" in response.json()["error"]
        monkeypatch.setattr("perception_encoder.search.web.server.is_builtin", lambda index: True)
        assert 'id="matches"' not in client.get("/").text
