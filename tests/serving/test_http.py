"""Slow clients, and limits on bodies."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.serving.servers import served

pytestmark = pytest.mark.security


def test_a_slow_client_is_sent_away(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        began = time.perf_counter()
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert 0.5 < time.perf_counter() - began < 5


def test_a_client_that_hangs_up_is_no_error_of_the_server(address: str, caplog: pytest.LogCaptureFixture) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
    key = {"Authorization": "Bearer secret"}
    for _ in range(5):  # meanwhile it notices
        time.sleep(0.05)
        assert httpx.get(f"{address}/v1/models", headers=key).status_code == 200
    assert "Exception in ASGI application" not in caplog.text


def test_bodies_of_all_requests_are_limited_together(encoder: Encoder) -> None:
    config = ApiConfig(bodies_bytes=100_000, body_seconds=20)
    body = b'{"input": "a cat", "user": "' + b"x" * 60_000
    with served(create_app(encoder, config)) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as first:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 2}\r\n\r\n"
            first.sendall(head.encode() + body)
            deadline = time.monotonic() + 10
            while (status := httpx.post(f"{address}/v1/embeddings", content=body + b'"}').status_code) == 200:
                assert time.monotonic() < deadline  # until the first has been read so far
            assert status == 429
            assert httpx.post(f"{address}/v1/embeddings", json={"input": "a cat"}).status_code == 200
            first.sendall(b'"}')
            assert first.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(3):  # what was read is given back
            assert httpx.post(f"{address}/v1/embeddings", content=body + b'"}').status_code == 200
