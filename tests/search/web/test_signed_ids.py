"""Ids of rows that cannot be computed from names."""

from __future__ import annotations

from fastapi.testclient import TestClient

from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.server import create_page


def test_ids_cannot_be_told_from_names(library: MediaLibrary) -> None:
    ids = []
    for _ in range(2):
        with TestClient(create_page(library), base_url="http://localhost") as client:
            tiles = client.get("/api/hits?count=200").json()["tiles"]
            ids.append({tile["id"] for tile in tiles})
            for row in library.index.rows():
                for address in ("thumbnail", "file", "api/around", "api/inside"):
                    assert client.get(f"/{address}/{row.id}").status_code == 400
    assert len(ids[0]) == len(ids[1]) == len(library.index) and not ids[0] & ids[1]
