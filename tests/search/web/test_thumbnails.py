"""Thumbnails of an answer are read together."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.search.index.index import Index
from perception_encoder.search.web.library import MediaLibrary


def test_thumbnails_of_an_answer_are_read_together(
    client: TestClient, library: MediaLibrary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = client.get("/api/hits").json()["tiles"]
    monkeypatch.setattr(Index, "row", None)
    for tile in tiles:
        small = client.get(tile["thumbnail"])
        assert Image.open(io.BytesIO(small.content)).size == (80, 60) or tile["kind"] == "video"
    monkeypatch.undo()
    address = tiles[0]["thumbnail"]
    assert client.get(address.partition("?")[0]).content == client.get(address).content  # read alone
    first = next(tile for tile in tiles if tile["kind"] == "image")
    Image.new("RGB", (64, 64)).save(folder / first["path"])
    library.update()
    library.refresh()
    changed = next(tile for tile in client.get("/api/hits").json()["tiles"] if tile["id"] == first["id"])
    assert changed["thumbnail"] != first["thumbnail"]
    assert Image.open(io.BytesIO(client.get(changed["thumbnail"]).content)).size == (64, 64)
