"""Requests of other pages and under other host names are refused, unless the server has a key."""

from __future__ import annotations

import fastapi
import pytest
from fastapi.testclient import TestClient

from perception_encoder.serving.guard import HOSTS, guard

LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def client(hosts: tuple[str, ...] | None) -> TestClient:
    app = fastapi.FastAPI()
    app.router.add_route("/", lambda request: fastapi.Response("page"), methods=["GET", "POST"])
    app.router.add_route("/broken", lambda request: 1 / 0)
    guard(app, {"X-Test": "yes"}, hosts)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/", LINK, 200),
        ("GET", "/", LINK | {"Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", "/other", LINK, 403),
        ("POST", "/", LINK, 403),
        ("GET", "/", LINK | {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "image"}, 200),
        ("POST", "/", {"Origin": "http://localhost"}, 200),
        ("POST", "/", {"Origin": "https://evil.example"}, 403),
        ("GET", "/", {"Host": "evil.example"}, 400),
        ("GET", "/broken", {}, 500),
    ],
)
def test_requests_of_other_pages_are_refused(method: str, path: str, headers: dict[str, str], status: int) -> None:
    response = client(HOSTS).request(method, path, headers=headers)
    assert response.status_code == status and response.headers["x-test"] == "yes"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert "division" not in response.text


def test_a_server_with_a_key_answers_everybody() -> None:
    for headers in ({"Host": "evil.example"}, LINK | {"Sec-Fetch-Dest": "iframe"}):
        assert client(None).get("/", headers=headers).status_code == 200
