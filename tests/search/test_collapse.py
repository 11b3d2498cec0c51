"""Hits that are nearly the same collapse into the best one, with their number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

import perception_encoder as pe
from perception_encoder.cli.main import app
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.web.library import open_library
from perception_encoder.search.web.server import create_page


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


def test_the_page_collapses_the_hits_of_texts(bursts: Path) -> None:
    pe.open_index(bursts, "builtin").update()
    with TestClient(create_page(open_library(bursts, "builtin")), base_url="http://localhost") as client:

        def tiles(**params: str | int) -> list[dict[str, Any]]:
            return client.get("/api/hits", params=params).json()["tiles"]

        collapsed = tiles(q="text:a cat")
        assert sorted(tile["similar"] for tile in collapsed) == [0, 1, 2]
        assert [tiles(q="text:a cat", offset=at, count=1)[0]["path"] for at in range(3)] == [
            tile["path"] for tile in collapsed
        ]
        assert len(tiles(q="text:a cat", similar="all")) == len(tiles(q=f"like:{collapsed[0]['id']}")) == 6


def test_the_command_shows_how_many_are_hidden(bursts: Path) -> None:
    assert CliRunner().invoke(app, ["index", str(bursts), "-m", "builtin"]).exit_code == 0
    found = CliRunner().invoke(app, ["search", "a cat", str(bursts), "--collapse", "--json"])
    assert sorted(re.findall(r'"similar": (\d)', found.stdout)) == ["1", "2"]
