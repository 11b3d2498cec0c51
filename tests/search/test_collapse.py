"""Hits that are nearly the same collapse into the best one, with their number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, expect
from typer.testing import CliRunner

import perception_encoder as pe
from perception_encoder.cli.main import app
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search_page.library import MediaLibrary, open_library
from perception_encoder.search_page.server import create_page
from tests.browsing import opened_page
from tests.serving.servers import served


@pytest.fixture
def bursts(tmp_path: Path) -> Path:
    """Two bursts, of three and of two photographs, and one alone."""
    for name, count in {"a": 3, "b": 2, "c": 1}.items():
        base = np.random.default_rng(ord(name)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        large = Image.fromarray(base).resize((128, 128), Image.Resampling.NEAREST)
        for number in range(count):
            (tmp_path / "photos").mkdir(exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 3, (128, 128, 3), dtype=np.uint8)
            pixels = np.clip(np.asarray(large).astype(np.int16) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}{number}.png")
    return tmp_path / "photos"


def test_a_search_shows_the_best_of_each_burst(bursts: Path) -> None:
    index = pe.open_index(bursts, "builtin", precision="float32")
    index.update()
    whole, hits = index.search("a cat"), index.search("a cat", collapse=True)
    assert len(whole) == 6 and {hit.similar for hit in whole} == {0}
    assert {Path(hit.path).name[0]: hit.similar for hit in hits} == {"a": 2, "b": 1, "c": 0}
    best = {name: max(hit.score for hit in whole if Path(hit.path).name[0] == name) for name in "abc"}
    assert [hit.score for hit in hits] == sorted(best.values(), reverse=True)
    assert [hit.path for hit in index.search("a cat", top=2, collapse=True)] == [hit.path for hit in hits[:2]]
    assert hits.to_dict()["queries"][0]["hits"][0].get("similar", 0) == hits[0].similar
    assert len(index.search("a cat", collapse=True, where="path LIKE 'a%'")) == 1
    for score in [hit.score for hit in whole]:
        found = index.search("a cat", collapse=True, min_score=score)
        assert sum(1 + hit.similar for hit in found) == len(index.search("a cat", min_score=score))
    with pytest.raises(TypeError):
        pe.search_files("a cat", bursts, collapse=True)  # type: ignore[call-arg]


def test_bursts_in_two_directories_collapse_together(bursts: Path, tmp_path: Path, encoder: Encoder) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a0.png").write_bytes((bursts / "a0.png").read_bytes())
    for directory in (bursts, other):
        pe.open_index(directory, encoder).update()
    hits = pe.open_index([bursts, other], encoder).search("a cat", collapse=True, min_score=-1)
    counts = {Path(hit.path).name[0]: hit.similar for hit in hits}
    assert sum(counts.values()) + len(hits) == 7 and counts["a"] >= 3


def test_a_file_of_two_indexes_is_one_row(
    bursts: Path, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory and one inside it, under two spellings, have three photographs in common."""
    (bursts / "inner").mkdir()
    for number in range(3):
        (bursts / f"a{number}.png").rename(bursts / "inner" / f"a{number}.png")
    monkeypatch.chdir(tmp_path)
    for directory in (bursts, bursts / "inner"):
        pe.open_index(directory, encoder).update()
    for both in (["photos", bursts / "inner"], [bursts / "inner", "photos"]):
        index = pe.open_index(both, encoder)
        assert len({Path(hit.path).absolute() for hit in index.search("a cat")}) == len(index.search("a cat")) == 6
        hits = index.search("a cat", collapse=True)
        assert {Path(hit.path).name[0]: hit.similar for hit in hits} == {"a": 2, "b": 1, "c": 0}
        assert sorted(map(len, index.near_duplicates())) == [2, 3]
        for name, to in (("plain.parquet", None), ("for-qdrant", "qdrant")):
            assert index.export_vectors(tmp_path / f"{both[0]!s:.3}-{name}".replace("/", "-"), to=to) == 6


@pytest.mark.parametrize("best_first", [True, False])
def test_the_best_is_kept_wherever_it_is(bursts: Path, encoder: Encoder, best_first: bool) -> None:
    """Each directory has photographs of burst a; the query is one of them."""
    other = bursts.parent / "other"
    other.mkdir()
    (bursts / "a0.png").rename(other / "a0.png")
    query = Image.open(other / "a0.png")
    both = [other, bursts] if best_first else [bursts, other]
    for directory in both:
        pe.open_index(directory, encoder).update()
    hits = pe.open_index(both, encoder).search(query, collapse=True, min_score=-1)
    assert Path(hits[0].path).name == "a0.png" and hits[0].similar >= 2
    assert sum(hit.similar for hit in hits) + len(hits) == 6


def test_many_bursts_are_searched_until_enough_differ(tmp_path: Path, encoder: Encoder) -> None:
    """The first hundred hits are one burst, so more have to be read than usual."""
    for number in range(120):
        Image.new("RGB", (16, 16), (200, number % 3, 0)).save(tmp_path / f"red{number:03d}.png")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / f"other{number}.png")
    index = pe.open_index(tmp_path, encoder)
    index.update()
    hits = index.search(Image.new("RGB", (16, 16), (200, 1, 0)), top=2, collapse=True)
    assert len(hits) == 2 and hits[0].similar >= 100 and "other" in hits[1].path
    assert 1 <= index.search(Image.new("RGB", (16, 16), (200, 1, 0)), top=1, collapse=True)[0].similar <= 119


def test_scrolling_ranks_again_only_when_there_are_twice_as_many(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(120):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / f"{number}.png")
    pe.open_index(tmp_path, encoder).update()
    asked, nearest = [], IndexStore.nearest
    monkeypatch.setattr(IndexStore, "nearest", lambda self, *args: asked.append(args[1]) or nearest(self, *args))
    page = create_page(MediaLibrary(IndexStore.open(tmp_path), encoder))
    with TestClient(page, base_url="http://localhost") as client:
        params = {"q": "text:a cat", "similar": "all", "count": 3}
        shown = [client.get("/api/hits", params={**params, "offset": at}).json()["tiles"] for at in range(0, 120, 3)]
        assert len({tile["path"] for tiles in shown for tile in tiles}) == 120
        assert len(asked) <= 7 and sum(asked) < 4 * 120
        (tmp_path / "0.png").unlink()
        pe.open_index(tmp_path, encoder).update()
        assert len(client.get("/api/hits", params={**params, "count": 200}).json()["tiles"]) == 119


def test_the_page_collapses_the_hits_of_texts(bursts: Path) -> None:
    pe.open_index(bursts, "builtin").update()
    with TestClient(create_page(open_library(bursts, ModelSpec("builtin"))), base_url="http://localhost") as client:

        def tiles(**params: str | int) -> list[dict[str, Any]]:
            return client.get("/api/hits", params=params).json()["tiles"]

        collapsed = tiles(q="text:a cat")
        assert sorted(tile["similar"] for tile in collapsed) == [0, 1, 2]
        assert [tiles(q="text:a cat", offset=at, count=1)[0]["path"] for at in range(3)] == [
            tile["path"] for tile in collapsed
        ]
        assert len(tiles(q="text:a cat", similar="all")) == len(tiles(q=f"like:{collapsed[0]['id']}")) == 6
        lowest = min(tile["score"] for tile in collapsed)
        above = tiles(q="text:a cat", min_score=lowest, similar="all")
        assert sum(1 + tile["similar"] for tile in tiles(q="text:a cat", min_score=lowest)) == len(above)
        answer = client.get("/api/hits", params={"q": "text:a cat", "similar": "none"})
        assert answer.status_code == 400 and "similar is 'none'; it must be 'all'" in answer.json()["error"]


@pytest.mark.browser
def test_the_page_says_that_its_count_has_the_similar_ones(browser: Browser, bursts: Path, encoder: Encoder) -> None:
    pe.open_index(bursts, encoder).update()
    app = create_page(MediaLibrary(IndexStore.open(bursts), encoder))
    with served(app) as address, opened_page(browser, f"{address}/?q=text:a cat", "none") as page:
        expect(page.locator("#count")).to_have_text("6 images and moments, similar as one, best match first")
        assert page.locator("#grid button.tile").count() == 3
        page.get_by_label("Similar as one").uncheck()
        expect(page.locator("#count")).to_have_text("6 images and moments, best match first")
        assert page.locator("#grid button.tile").count() == 6


def test_the_command_shows_how_many_are_hidden(bursts: Path) -> None:
    assert CliRunner().invoke(app, ["index", str(bursts), "-m", "builtin"]).exit_code == 0
    found = CliRunner().invoke(app, ["search", "a cat", str(bursts), "--collapse", "--json"])
    assert sorted(re.findall(r'"similar": (\d)', found.stdout)) == ["1", "2"]
