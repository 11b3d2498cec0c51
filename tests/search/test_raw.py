"""RAW photographs in an index and on the page: rows, three sizes of thumbnails, uploads, damaged files, no rawpy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import Browser, expect

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.preprocess import raw
from perception_encoder.preprocess.image import open_image
from perception_encoder.search_page.library import MediaLibrary, open_library
from perception_encoder.search_page.server import create_page
from tests.browsing import opened_page, wait_until
from tests.raw_photos import HEIGHT, WIDTH, write_dng
from tests.search.indexes import hits, rows_by_path
from tests.serving.servers import served

needs_rawpy = pytest.mark.skipif(not raw.reads_raw(), reason="needs the extra raw")
LARGE = (3000, 2400)


@pytest.fixture
def camera(tmp_path: Path, draw: Callable[[int], Image.Image]) -> Path:
    """A directory of RAW photographs, one of them damaged, and a JPEG."""
    directory = tmp_path / "camera"
    directory.mkdir()
    (directory / "plain.dng").write_bytes(write_dng())
    (directory / "turned.DNG").write_bytes(write_dng(preview=(160, 128), orientation=6))
    (directory / "large.dng").write_bytes(write_dng(preview=(1280, 1024), size=LARGE))
    (directory / "damaged.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(1000))
    draw(0).save(directory / "a.jpg")
    return directory


@pytest.fixture
def library(camera: Path, checkpoint: Path) -> MediaLibrary:
    library = open_library(camera, ModelSpec(checkpoint))
    library.update()
    library.index.refresh()
    assert not library.progress.error
    return library


@pytest.fixture
def client(library: MediaLibrary) -> Iterator[TestClient]:
    with TestClient(create_page(library), base_url="http://localhost") as client:
        yield client


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def colour(image: Image.Image, row: float) -> str:
    """The strongest channel in the middle of a row."""
    return "RGB"[int(np.argmax(image.getpixel((image.width // 2, int(row * image.height)))))]


@needs_rawpy
def test_an_index_holds_them_upright_with_the_size_and_the_date(
    run_pe, camera: Path, checkpoint: Path, encoder: Encoder
) -> None:
    run = run_pe("index", camera, "--model", checkpoint)
    assert run.status == 0 and "4 added" in run.stdout
    damaged = [line for line in run.stderr.splitlines() if "damaged.raf" in line]
    assert len(damaged) == 1 and "cannot be decoded: " in damaged[0] and "b'" not in damaged[0]
    rows = {path: row for path, (row,) in rows_by_path(camera).items()}
    sizes = {"plain.dng": (WIDTH, HEIGHT), "turned.DNG": (HEIGHT, WIDTH), "large.dng": LARGE}
    assert {name: (rows[name].width, rows[name].height) for name in sizes} == sizes
    assert rows["turned.DNG"].date == "2024-07-31T18:05:00"
    for name in sizes:
        vector = encoder.encode_images([open_image(camera / name)])[0]
        np.testing.assert_allclose(rows[name].vector, vector, atol=2e-3)
    assert [colour(opened(rows["plain.dng"].thumbnail), row) for row in (0.2, 0.8)] == ["R", "B"]
    run = run_pe("search", "--image", camera / "plain.dng", camera, "--json", "--where", "width > 1000")
    assert hits(run) == {str(camera / "large.dng")}


@needs_rawpy
def test_the_page_shows_a_preview_or_the_sensor_by_what_a_size_needs(client: TestClient, camera: Path) -> None:
    tiles = {tile["path"]: tile for tile in client.get("/api/hits").json()["tiles"]}
    shown = {}
    for name in ("plain.dng", "turned.DNG", "large.dng"):
        for size in ("", "/large", "/full"):
            response = client.get(tiles[name]["thumbnail"].replace("?", f"{size}?"))
            assert response.headers["content-type"] == "image/jpeg"
            image = opened(response.content)
            shown[name, size] = (image.size, colour(image, 0.2) + colour(image, 0.8))
    half = (WIDTH // 2, HEIGHT // 2)
    assert [shown["plain.dng", size] for size in ("", "/large", "/full")] == [(half, "RB")] * 3
    assert [shown["turned.DNG", size] for size in ("", "/large", "/full")] == [((128, 160), "GG")] * 3
    assert shown["large.dng", ""] == ((256, 205), "GG")
    assert shown["large.dng", "/large"] == ((640, 512), "GG")
    assert shown["large.dng", "/full"] == ((1500, 1200), "RB")  # the preview has too few pixels
    assert client.get(f"/file/{tiles['plain.dng']['id']}").content == (camera / "plain.dng").read_bytes()
    full = tiles["plain.dng"]["thumbnail"].replace("?", "/full?")
    (camera / "plain.dng").write_bytes(b"II*\0" + b"\xff" * 1000)
    assert opened(client.get(full).content).size == half  # the stored one


@needs_rawpy
def test_a_search_by_an_uploaded_one(client: TestClient, camera: Path) -> None:
    line = client.post("/api/image", content=(camera / "plain.dng").read_bytes()).json()["q"]
    best = client.get("/api/hits", params={"q": line}).json()["tiles"][0]
    assert best["path"] == "plain.dng" and best["score"] == pytest.approx(1, abs=1e-2)
    response = client.post("/api/image", content=(camera / "damaged.raf").read_bytes())
    assert response.status_code == 400 and response.json()["error"].startswith("the image: cannot be decoded: ")


@needs_rawpy
@pytest.mark.browser
def test_the_browser_gets_an_image_that_it_can_show(browser: Browser, library: MediaLibrary) -> None:
    with served(create_page(library)) as address, opened_page(browser, address, "none") as page:
        page.locator('#grid button[title="turned.DNG"]').click()
        wait_until(page, "document.querySelector('#stage img')?.naturalWidth === 128")
        expect(page.locator("#stage p")).to_have_count(0)


def test_without_rawpy_the_extra_is_named_and_indexed_ones_stay(
    run_pe, camera: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if had_rawpy := raw.reads_raw():
        assert "4 added" in run_pe("index", camera, "--model", checkpoint).stdout
    monkeypatch.setattr("perception_encoder.formats.listing.reads_raw", lambda: False)
    run = run_pe("index", camera, "--model", checkpoint)
    assert run.status == 0 and "0 deleted" in run.stdout and len(rows_by_path(camera)) == (4 if had_rawpy else 1)
    assert "files of unsupported types: 4 (3 .dng, 1 .raf)" in run.stderr and "[raw]" in run.stderr
