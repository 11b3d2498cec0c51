"""What the page's routes share: errors, lines of JSON, and ids that cannot be computed from names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from perception_encoder.errors import ConfigError, MediaDecodeError, SearchIndexError
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.responses import error_response, json_line, stored_secret
from perception_encoder.search.web.server import create_page
from perception_encoder.serving.http import ApiError
from perception_encoder.serving.queues import QueueFullError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("layer is 99"), 400, "layer is 99"),
        (SearchIndexError("of an earlier run"), 400, "of an earlier run"),
        (MediaDecodeError("a.jpg", "is empty"), 404, "a.jpg: is empty"),
        (QueueFullError("4 wait"), 429, "4 wait"),
        (ApiError(413, "too long"), 413, "too long"),
    ],
)
def test_an_error_has_a_status_and_its_message(error: Exception, status: int, message: str) -> None:
    response = error_response(error)
    assert response.status_code == status and json.loads(bytes(response.body)) == {"error": message}


def test_a_line_ends() -> None:
    assert json_line({"text": "a\nb"}) == b'{"text": "a\\nb"}\n'


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


def test_a_stored_secret_keeps_addresses_over_runs(library: MediaLibrary, tmp_path: Path) -> None:
    path = tmp_path / "settings" / "secret"
    first, second = stored_secret(path), stored_secret(path)
    assert first == second and first is not None and len(first) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert stored_secret(tmp_path / "other") != first
    pages = [create_page(library, secret=first) for _ in range(2)]
    with TestClient(pages[0], base_url="http://localhost") as client:
        tile = client.get("/api/hits").json()["tiles"][0]
    with TestClient(pages[1], base_url="http://localhost") as client:
        assert client.get(f"/file/{tile['id']}").status_code == 200
    path.write_bytes(b"short")
    assert stored_secret(path) is None and stored_secret(path / "below") is None
