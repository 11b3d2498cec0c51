"""Thumbnails: stored ones are read together; large ones are made from the files and cached within bounds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.store import Store
from perception_encoder.search.web import server
from perception_encoder.search.web.library import MediaLibrary
from tests.clips import HEIGHT, WIDTH, number_of
from tests.search.indexes import make_library

Draw = Callable[[int], Image.Image]


@pytest.fixture
def library(folder: Path, checkpoint: Path, encoder: Encoder, draw: Draw) -> MediaLibrary:
    library = make_library(folder, checkpoint, encoder, draw)
    draw(50).resize((1600, 1200)).save(folder / "wide.jpg")
    draw(51).resize((900, 1200)).save(folder / "tall.png")
    library.update()
    library.refresh()
    return library


def large_of(client: TestClient, path: str) -> str:
    """The address of a file's large thumbnail, as the page makes it."""
    tiles = client.get("/api/hits", params={"count": 200}).json()["tiles"]
    return next(tile["thumbnail"] for tile in tiles if tile["path"] == path).replace("?", "/large?")


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_large_thumbnails_are_made_from_the_files(client: TestClient, draw: Draw) -> None:
    for path, size in (("wide.jpg", (640, 480)), ("tall.png", (480, 640)), ("04's <b>.jpg", (80, 60))):
        large = client.get(large_of(client, path))
        assert large.headers["content-type"] == "image/jpeg" and "max-age" in large.headers["cache-control"]
        assert opened(large.content).size == size
    frame = opened(client.get(large_of(client, "clip.mp4")).content)
    tile = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["kind"] == "video")
    assert number_of(frame.resize((WIDTH, HEIGHT))) == round(tile["time"] * 10) > 0


def test_without_its_file_the_stored_thumbnail_is_the_answer(client: TestClient, folder: Path, tmp_path: Path) -> None:
    address = large_of(client, "wide.jpg")
    stored = client.get(address.replace("/large?", "?")).content
    (folder / "wide.jpg").rename(tmp_path / "secret.jpg")
    assert client.get(address).content == stored
    (folder / "wide.jpg").symlink_to(tmp_path / "secret.jpg")  # outside the folder
    assert client.get(address).content == stored
    (folder / "wide.jpg").unlink()
    (folder / "wide.jpg").write_bytes((tmp_path / "secret.jpg").read_bytes()[:500])
    assert client.get(address).content == stored
    (tmp_path / "secret.jpg").replace(folder / "wide.jpg")
    assert opened(client.get(address).content).size == (640, 480)  # a failure is not cached


def test_large_thumbnails_are_cached_within_bounds(
    library: MediaLibrary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_CACHED_LARGE", 2)
    decoded: list[Path] = []
    open_image = server.open_image

    def counted(path: Path, *rest: Any, **options: Any) -> Image.Image:
        decoded.append(path)
        return open_image(path, *rest, **options)

    monkeypatch.setattr(server, "open_image", counted)
    thumbnails = server.Thumbnails(library)
    first, second, third = [row.id for row in library.index.rows() if row.kind == "image"][:3]
    for id in (first, second, first, third, first):
        thumbnails.large(id, "digest")
    assert len(decoded) == 3
    thumbnails.large(second, "digest")  # the one unused for the longest time made room for the third
    assert len(decoded) == 4
    Image.new("RGB", (200, 100), "red").save(decoded[0])  # the first, under the name and address that it had
    assert opened(thumbnails.large(first, "digest")).size == (200, 100) and len(decoded) == 5


def test_ids_of_large_thumbnails_are_signed(client: TestClient, library: MediaLibrary) -> None:
    row = library.index.rows()[0]
    assert client.get(f"/thumbnail/{row.id}/large").status_code == 400


def test_thumbnails_of_an_answer_are_read_together(
    client: TestClient, library: MediaLibrary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = client.get("/api/hits").json()["tiles"]
    monkeypatch.setattr(Store, "row", None)
    for tile in tiles:
        small = client.get(tile["thumbnail"])
        size = {"wide.jpg": (256, 192), "tall.png": (192, 256)}.get(tile["path"], (80, 60))
        assert opened(small.content).size == size or tile["kind"] == "video"
    monkeypatch.undo()
    address = tiles[0]["thumbnail"]
    assert client.get(address.partition("?")[0]).content == client.get(address).content  # read alone
    first = next(tile for tile in tiles if tile["path"] == "04's <b>.jpg")
    Image.new("RGB", (64, 64)).save(folder / first["path"])
    library.update()
    library.refresh()
    changed = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["id"] == first["id"])
    assert changed["thumbnail"] != first["thumbnail"]
    assert Image.open(io.BytesIO(client.get(changed["thumbnail"]).content)).size == (64, 64)
