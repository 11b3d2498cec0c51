"""A server's limits, and what its guard refuses."""

from __future__ import annotations

import hmac
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import fastapi
import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.search_page.library import MediaLibrary
from perception_encoder.search_page.server import create_page
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from perception_encoder.web_server import server
from perception_encoder.web_server.server import HOSTS, guard
from tests import processes
from tests.search.indexes import make_library
from tests.serving.generators import ENDLESS, EchoGenerator
from tests.serving.servers import served

pytestmark = pytest.mark.security


HALF = b"GET /health HTTP/1.1\r\nHost: loc"


def closed(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_taken_port_is_an_error() -> None:
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken.*--port"):
            server.listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0"):
        server.listen("192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:99999"):
        server.listen("127.0.0.1", 99999)


def test_half_sent_heads_do_not_keep_others_out(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(server, "HEAD_SECONDS", 100.0)
    with served(create_app(encoder, ApiConfig())) as address, ExitStack() as opened:
        host, port = address.removeprefix("http://").split(":")
        stalled = []
        for _ in range(60):
            stalled.append(opened.enter_context(socket.create_connection((host, int(port)))))
            stalled[-1].sendall(HALF)
        for _ in range(5):
            assert httpx.get(f"{address}/health", timeout=10).status_code == 200
        assert all(closed(connection) for connection in stalled[:40])  # the oldest ones
        stalled[-1].sendall(b"alhost\r\n\r\n")
        assert stalled[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_a_head_must_arrive_in_time_the_next_one_of_a_connection_too(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    with served(create_app(encoder, ApiConfig())) as address:
        host, port = address.removeprefix("http://").split(":")
        for whole in (b"", HALF + b"alhost\r\n\r\n"):
            with socket.create_connection((host, int(port))) as connection:
                if whole:
                    connection.sendall(whole)
                    answer = b""
                    while not answer.endswith(b"}"):
                        answer += connection.recv(1000)
                began = time.monotonic()
                connection.sendall(HALF)
                assert closed(connection) and 0.5 < time.monotonic() - began < 8


def test_sigterm_ends_a_server_with_an_open_stream(encoder: Encoder, tmp_path: Path) -> None:
    """A real signal to a real process; before, the process lived until the answer was complete."""
    listener = server.listen("127.0.0.1", 0)
    with listener:
        started = processes.start(serve_endless, listener, log=tmp_path / "log")
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    body = {"messages": [{"role": "user", "content": ENDLESS}], "max_tokens": 10_000, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as response:
        received = response.iter_bytes()
        next(received)
        (process,) = started.processes
        os.kill(process.pid, signal.SIGTERM)
        stopped = time.monotonic()
        assert started.statuses(20) == [-signal.SIGTERM], started.output()
        assert time.monotonic() - stopped < 10
        with suppress(httpx.RemoteProtocolError):
            assert b"[DONE]" not in b"".join(received)
    assert "Traceback" not in started.output()


def serve_endless(listener: socket.socket) -> None:
    """Serve a language model whose answer takes minutes."""
    server.STOP_SECONDS = 1
    echo = EchoGenerator(pause=0.05)
    encoder = Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    server.run_server(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", lambda: echo)), listener)


KEY, LAN = "ключ & söme=key", "192.168.1.5"
HTML = {"Accept": "text/html,*/*"}


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]
) -> MediaLibrary:
    return make_library(tmp_path_factory.mktemp("library") / "photos", checkpoint, encoder, draw)


@pytest.fixture
def client(library: MediaLibrary) -> Iterator[TestClient]:
    app = create_page(library, (LAN, *HOSTS), key=KEY)
    with TestClient(app, base_url=f"http://{LAN}:8000", follow_redirects=False) as client:
        yield client


def test_nothing_is_answered_without_the_key(client: TestClient) -> None:
    for address in ("/", "/static/page.js", "/api/hits", "/api/status", "/thumbnail/x", "/file/x", "/nothing"):
        refused = client.get(address)
        assert refused.status_code == 401 and "key is needed" in refused.json()["error"]
        assert not refused.cookies and "photos" not in refused.text
    for address in ("/api/rescan", "/api/image"):
        assert client.post(address, content=b"x").status_code == 401
    page = client.get("/", headers=HTML)
    assert page.status_code == 401 and "This page needs its key" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("wrong", ["", KEY[:-1], KEY.upper()])
def test_a_wrong_key_is_refused(client: TestClient, wrong: str) -> None:
    for refused in (
        client.get("/", params={"key": wrong}),
        client.get("/", headers={"Authorization": f"Bearer {wrong}".encode()}),
        client.get("/", headers={"Cookie": f"pe-00000000={wrong}".encode()}),
    ):
        assert refused.status_code == 401 and not refused.cookies


def test_the_key_is_given_once(client: TestClient) -> None:
    opened = client.get("/", params={"key": KEY, "q": "text:a cat", "kind": "image"})
    assert opened.status_code == 303 and opened.headers["location"] == "/?q=text%3Aa%20cat&kind=image"
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and re.search("SameSite=strict", cookie, re.IGNORECASE)
    assert not any(word in cookie for word in ("key", KEY)) and opened.headers["cache-control"] == "no-store"
    page = client.get(opened.headers["location"], headers=HTML)
    assert page.status_code == 200 and "Search photos" in page.text
    tile = client.get("/api/hits").json()["tiles"][0]
    assert client.get(tile["thumbnail"]).status_code == client.get(f"/file/{tile['id']}").status_code == 200
    assert client.post("/api/rescan").status_code == 202
    client.cookies.clear()
    assert client.get("/api/hits").status_code == 401
    assert client.get("/", params={"key": KEY}).headers["location"] == "/"


def test_the_key_opens_the_page_alone(client: TestClient) -> None:
    """An address elsewhere with the key would lead wherever its path says."""
    for address in ("//evil.example/", "/api/hits", "/static/page.css"):
        assert client.get(f"http://{LAN}:8000{address}", params={"key": KEY}).status_code == 401


def test_the_cookie_of_another_key_is_refused(client: TestClient, library: MediaLibrary) -> None:
    client.get("/", params={"key": KEY})
    assert client.get("/api/hits").status_code == 200
    with TestClient(create_page(library, (LAN, *HOSTS), key="other"), base_url=f"http://{LAN}:8000") as other:
        other.cookies.update(client.cookies)
        assert other.get("/api/hits").status_code == 401


def test_other_pages_and_names_are_refused_with_the_key_too(client: TestClient) -> None:
    client.get("/", params={"key": KEY})
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", params={"key": KEY}, headers={"Host": "evil.example"}).status_code == 400
    assert client.post("/api/rescan", headers={"Origin": "http://evil.example"}).status_code == 403
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/", params={"key": KEY}, headers=image).status_code == 403


def test_keys_and_cookies_are_compared_in_constant_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/", params={"key": KEY})
    (cookie,) = client.cookies
    compared: set[bytes] = set()
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: (compared.add(a), compare(a, b))[1])
    client.cookies.clear()
    client.get("/", params={"key": "a key"})
    client.get("/", headers={"Authorization": "Bearer a key", "Cookie": f"{cookie}=a token"})
    assert {b"a key", b"Bearer a key", b"a token"} <= compared


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def bare_client(hosts: tuple[str, ...] | None) -> TestClient:
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
    response = bare_client(HOSTS).request(method, path, headers=headers)
    assert response.status_code == status and response.headers["x-test"] == "yes"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert "division" not in response.text


def test_a_server_for_any_host_name_still_refuses_other_pages() -> None:
    client = bare_client(None)
    for headers, status in (
        ({"Host": "evil.example"}, 200),
        (LINK | {"Sec-Fetch-Dest": "iframe"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "pe.example", "Origin": "http://pe.example"}, 200),
    ):
        for method in ("GET", "POST"):
            assert client.request(method, "/", headers=headers).status_code == status
