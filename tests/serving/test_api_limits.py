"""What one client may cost the server: slow ones, URLs, images, bodies, and what goes to its log."""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.serving.generators import EchoGenerator
from tests.serving.servers import data_uri, record_model_threads, served

pytestmark = pytest.mark.security


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_text_does_not_wait_for_slow_urls(encoder: Encoder) -> None:
    fetch = FetchLimits(seconds=8.0, allow_private=True)
    with (
        silent_server() as slow,
        served(create_app(encoder, ApiConfig(allow_urls=True, fetch=fetch))) as address,
        ThreadPoolExecutor() as pool,
    ):
        began = time.monotonic()
        urls = [f"{slow}/{number}.jpg" for number in range(32)]
        body = {"input": [{"image": url} for url in urls]}
        refused = pool.submit(httpx.post, f"{address}/v1/embeddings", json=body, timeout=60)
        time.sleep(0.5)
        for number in range(3):
            answer = httpx.post(f"{address}/v1/embeddings", json={"input": f"text {number}"}, timeout=60)
            assert answer.status_code == 200
        assert time.monotonic() - began < 7.5 and not refused.done()
        response = refused.result()
        assert response.status_code == 413 and "8 s" in response.json()["error"]["message"]
        assert time.monotonic() - began < 15  # 32 URLs, 16 at a time, in one deadline


def test_large_images_wait_for_each_other(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.preprocess.budget.DECODING.limit", 1 << 20)
    monkeypatch.setattr("perception_encoder.serving.requests.DECODERS", 4)
    decoding, most = 0, [0]
    lock = threading.Lock()
    pixels = type(encoder.transform).pixels

    def counted(self: object, image: Image.Image) -> object:
        nonlocal decoding
        with lock:
            decoding += 1
            most.append(decoding)
        time.sleep(0.05)
        with lock:
            decoding -= 1
        return pixels(self, image)

    monkeypatch.setattr(type(encoder.transform), "pixels", counted)
    large = data_uri(Image.fromarray(np.zeros((600, 800), np.uint16)))  # 3.8 MB by the budget
    small = data_uri(Image.new("RGB", (100, 100)))
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        for uri, expected in ((large, 1), (small, 4)):
            most.clear()
            answer = client.post("/v1/embeddings", json={"input": [{"image": uri}] * 8})
            assert answer.status_code == 200 and max(most) == expected


def test_images_whose_decoder_stops_other_threads_are_small(encoder: Encoder) -> None:
    Image.new("L", (2001, 2001)).save(stream := io.BytesIO(), "JPEG2000")
    uri = "data:image/jp2;base64," + base64.b64encode(stream.getvalue()).decode()
    queue = GenerationQueue("echo", EchoGenerator)
    with TestClient(create_app(encoder, ApiConfig(), chat=queue), base_url="http://localhost") as client:
        answers = [
            client.post("/v1/embeddings", json={"input": [{"image": uri}] * 2}),
            client.post("/v1/rerank", json={"query": "a", "documents": [{"image": uri}]}),
            client.post(
                "/v1/chat/completions",
                json={
                    "model": "echo",
                    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}],
                },
            ),
        ]
    for answer in answers:
        assert answer.status_code == 413 and "a server opens JPEG2000 up to 4,000,000" in answer.text


def test_nothing_that_a_client_sends_goes_to_the_log(
    encoder: Encoder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "zanzibar"
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    bodies: list[dict] = [
        {"input": f"{secret} " * 60},  # over the context
        {"input": [f"{secret} {number}" for number in range(3)]},
        {"input": {"image": f"data:image/jpeg;base64,{secret}"}},
        {"input": {"image": f"http://127.0.0.1/{secret}"}},
        {"input": {"image": f"https://{secret}.invalid/"}},
        {"input": secret, "model": secret},
        {"input": 7, secret: secret},
    ]
    for client in ("httpcore", "httpx"):  # of this test, and not of the server
        caplog.set_level(logging.WARNING, client)
    with (
        caplog.at_level(logging.DEBUG),
        warnings.catch_warnings(record=True) as warned,
        served(create_app(encoder, ApiConfig(allow_urls=True))) as address,
    ):
        warnings.simplefilter("always")
        statuses = [httpx.post(f"{address}/v1/embeddings", json=body).status_code for body in bodies]
        assert statuses == [200, 200, 400, 400, 400, 404, 400]
        assert httpx.get(f"{address}/v1/models/{secret}").status_code == 404
    assert not any(secret in record.getMessage() for record in caplog.records)
    assert not any(secret in str(warning.message) for warning in warned)
    assert not any(secret in text for text in capfd.readouterr())


Draw = Callable[[int], Image.Image]


def test_the_model_runs_in_one_thread(encoder: Encoder, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = record_model_threads(monkeypatch)
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:

        def ask(number: int) -> None:
            client.post("/v1/embeddings", json={"input": [f"text {number}"] * 30})
            client.post("/v1/embeddings", json={"input": [{"image": data_uri(draw(number))}] * 5})

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, range(6)))
    assert len(threads) == 1


def test_a_slow_client_is_sent_away(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        began = time.perf_counter()
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert 0.5 < time.perf_counter() - began < 5


def test_a_client_that_hangs_up_is_no_error_of_the_server(encoder: Encoder, capfd: pytest.CaptureFixture[str]) -> None:
    body = b'{"input": "a cat", "user": "' + b"x" * 60_000
    with served(create_app(encoder, ApiConfig(bodies_bytes=100_000, body_seconds=60))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as first:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 2}\r\n\r\n"
            first.sendall(head.encode() + body)
            deadline = time.monotonic() + 30
            for status in (429, 200):  # the first has been read so far; its end has been noticed, and its share is free
                while httpx.post(f"{address}/v1/embeddings", content=body + b'"}').status_code != status:
                    assert time.monotonic() < deadline, status
                first.close()
    assert "Exception in ASGI application" not in "".join(capfd.readouterr())


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
