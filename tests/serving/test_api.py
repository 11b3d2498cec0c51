"""The embedding server: both dialects, the real openai client, batches, limits and errors."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.errors import InputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.media import Media
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.serving.api import create_app
from perception_encoder.serving.batching import Batcher, QueueFullError
from perception_encoder.serving.requests import ApiConfig
from tests.clips import clip
from tests.serving.servers import served

Draw = Callable[[int], Image.Image]


@pytest.fixture
def client(encoder: Encoder) -> Iterator[TestClient]:
    config = ApiConfig(inputs=8, files=2, body_bytes=1 << 20)
    with TestClient(create_app(encoder, config), base_url="http://localhost") as client:
        yield client


def data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def vectors(response: dict) -> np.ndarray:
    assert [row["index"] for row in response["data"]] == list(range(len(response["data"])))
    return np.array([row["embedding"] for row in response["data"]], np.float32)


def test_texts(client: TestClient, encoder: Encoder) -> None:
    texts = ["a red mug", "missing.jpg", "/etc/passwd"]  # nothing is a path here
    response = client.post("/v1/embeddings", json={"model": "PE-Core-N16-128", "input": texts})
    assert response.status_code == 200
    np.testing.assert_allclose(vectors(response.json()), encoder.encode_texts(texts), atol=1e-5)
    assert response.json()["model"] == "PE-Core-N16-128" and response.json()["usage"]["prompt_tokens"] > 6
    single = client.post("/v1/embeddings", json={"input": "a red mug", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(single["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, encoder.encode_texts("a red mug"), atol=1e-5)


def test_pictures_and_videos_in_both_dialects(client: TestClient, encoder: Encoder, draw: Draw, tmp_path: Path) -> None:
    image, video = draw(3), tmp_path / "clip.mp4"
    video.write_bytes(clip(60))
    film = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    expected = encoder.encode_images([image]), encoder.encode_videos([video])
    asked = [
        ({"input": [data_uri(image)], "modality": "image"}, expected[0]),
        ({"messages": [_user({"type": "image_url", "image_url": {"url": data_uri(image)}})]}, expected[0]),
        ({"input": film, "modality": "video"}, expected[1]),
        ({"messages": [_user({"type": "video_url", "video_url": {"url": film}})]}, expected[1]),
        ({"messages": [{"role": "user", "content": "a cat"}]}, encoder.encode_texts(["a cat"])),
        ({"messages": [{"role": "system", "content": "x"}, _user({"type": "text", "text": "a cat"})]}, None),
    ]
    for body, wanted in asked:
        response = client.post("/v1/embeddings", json={"model": "builtin", **body})
        assert response.status_code == 200, response.text
        wanted = encoder.encode_texts(["a cat"]) if wanted is None else wanted
        np.testing.assert_allclose(vectors(response.json()), wanted, atol=1e-4)


def _user(part: dict) -> dict:
    return {"role": "user", "content": [part]}


def test_fewer_dimensions_are_unit_length(client: TestClient, encoder: Encoder) -> None:
    (found,) = vectors(client.post("/v1/embeddings", json={"input": "a cat", "dimensions": 16}).json())
    expected = encoder.encode_texts("a cat")[:16]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "input must be a string"),
        ([], 400, "must be a JSON object"),
        ({"input": []}, 400, "1 to 8"),
        ({"input": ["x"] * 9}, 400, "1 to 8"),
        ({"input": [1, 2]}, 400, "check_embedding_ctx_length=False"),
        ({"input": ["x", 2]}, 400, "list of strings"),
        ({"input": [[49406, 320, 10**400, 49407]]}, 400, "vocabulary"),
        ({"input": "x", "model": "text-embedding-3-small"}, 404, "no model 'text-embedding-3-small'"),
        ({"input": "x", "model": 7}, 404, "no model 7"),
        ({"input": "x", "dimensions": int("9" * 400)}, 400, "1 to 256"),
        ({"input": "x", "dimensions": True}, 400, "1 to 256"),
        ({"input": " "}, 400, "empty"),
        ({"input": "x", "modality": "sound"}, 400, "modality"),
        ({"input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "x", "dimensions": 257}, 400, "1 to 256"),
        ({"input": "x", "dimensions": "many"}, 400, "dimensions"),
        ({"input": "/etc/passwd", "modality": "image"}, 400, "neither an http(s) address nor a data URI"),
        ({"input": "file:///etc/passwd", "modality": "image"}, 400, "neither an http(s) address"),
        ({"input": "http://127.0.0.1:9/a.png", "modality": "image"}, 400, "no public address"),
        ({"input": "data:image/png;base64,%%%", "modality": "image"}, 400, "not valid base64"),
        ({"input": "data:image/png,abc", "modality": "image"}, 400, "not a base64 data URI"),
        ({"input": "data:image/png;base64,aGVsbG8=", "modality": "image"}, 400, "picture"),
        ({"messages": []}, 400, "one part"),
        ({"messages": "x"}, 400, "one part"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, 400, "one part"),
        ({"input": "x" * (1 << 20)}, 413, "1,048,576 bytes"),
        ({"input": "x" * 20_001}, 400, "20,000 characters"),
        ({"input": ["data:,", "data:,", "data:,"], "modality": "image"}, 400, "at most 2"),
        ({"input": "http://x y/../../secret.jpg", "modality": "image"}, 400, "neither an http(s) address"),
    ],
)
def test_bad_requests_are_said_in_openais_form(client: TestClient, body: object, status: int, said: str) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error["message"] and error["code"] == (status if status != 404 else "model_not_found")
    assert len(error["message"]) < 300
    assert client.get("/health").json()["status"] == "ok"


def test_no_json_and_no_route(client: TestClient) -> None:
    assert client.post("/v1/embeddings", content=b"{").status_code == 400
    assert client.post("/v1/embeddings", content=b"[" * 100_000).status_code == 400
    assert client.post("/v1/embeddings", json={"input": "x"}, headers={"Origin": "http://evil"}).status_code == 403
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/v1/embeddings").status_code == 405
    assert client.get("/etc/passwd").status_code == client.get("/docs").status_code == 404


def test_a_key_is_asked_for(encoder: Encoder) -> None:
    with TestClient(create_app(encoder, ApiConfig(key="secret"))) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert client.post("/v1/embeddings", json={"input": "a cat"}, headers=headers).status_code == 401
            for path in ("/v1/models", "/v1/models/builtin", "/metrics", "/v1/metrics", "/models"):
                assert client.get(path, headers=headers).status_code == 401
            assert client.get("/openapi.json", headers=headers).status_code == 404
        good = {"Authorization": "Bearer secret"}
        assert client.post("/v1/embeddings", json={"input": "a cat"}, headers=good).status_code == 200
        assert client.get("/v1/models", headers=good).json()["data"][0]["id"] == "PE-Core-N16-128"
        assert client.get("/health").status_code == 200


def test_metrics_count_what_was_answered(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"input": ["a", "b"]})
    client.post("/v1/embeddings", json={})
    text = client.get("/metrics").text
    assert 'pe_requests_total{status="200"} 1.0' in text and 'pe_requests_total{status="400"} 1.0' in text
    assert "pe_batch_inputs_sum 2.0" in text and "pe_request_seconds_count 2.0" in text
    assert "pe_waiting_inputs 0.0" in text


@pytest.fixture
def address(encoder: Encoder) -> Iterator[str]:
    """A server in a thread."""
    config = ApiConfig(key="secret", body_seconds=1.0, fetch=FetchLimits(seconds=1.0))
    with served(create_app(encoder, config)) as address:
        yield address


def test_the_openai_client_works_unchanged(address: str, encoder: Encoder) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
        found = client.embeddings.create(model="PE-Core-N16-128", input=["a red mug", "a dog"])
        np.testing.assert_allclose(
            [row.embedding for row in found.data], encoder.encode_texts(["a red mug", "a dog"]), atol=1e-5
        )
        short = client.embeddings.create(model="builtin", input="a dog", dimensions=8, encoding_format="float")
        assert len(short.data[0].embedding) == 8
        assert [model.id for model in client.models.list()] == ["PE-Core-N16-128"]
        with pytest.raises(openai.BadRequestError, match="modality"):
            client.embeddings.create(model="builtin", input="a dog", extra_body={"modality": "smell"})
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_model_without_texts_refuses_them(draw: Draw) -> None:
    tower = Encoder(create_model("PE-Spatial-T16-512"), "cpu", torch.float32)
    with TestClient(create_app(tower, ApiConfig()), base_url="http://localhost") as client:
        refused = client.post("/v1/embeddings", json={"input": "a cat"})
        assert refused.status_code == 400 and "no text tower" in refused.json()["error"]["message"]
        seen = client.post("/v1/embeddings", json={"input": data_uri(draw(1)), "modality": "image"})
        assert seen.status_code == 200


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
    deadline = time.monotonic() + 10
    key = {"Authorization": "Bearer secret"}
    while 'status="400"' not in httpx.get(f"{address}/metrics", headers=key).text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 'status="400"' in httpx.get(f"{address}/metrics", headers=key).text
    assert "Exception in ASGI application" not in caplog.text


def test_requests_together_are_encoded_together(encoder: Encoder) -> None:
    texts = [f"picture {number}" for number in range(40)]
    sizes: list[int] = []

    async def ask() -> list[np.ndarray]:
        batcher = Batcher(encoder, largest=16, patience=0.02, watch=sizes.append)
        worker = asyncio.create_task(batcher.run())
        try:
            with batcher.reserve(len(texts)):
                return await asyncio.gather(*(batcher.encode([Decoded(text=text)]) for text in texts))
        finally:
            worker.cancel()

    found = np.concatenate(asyncio.run(ask()))
    np.testing.assert_allclose(found, encoder.encode_texts(texts), atol=1e-5)
    assert sum(sizes) == 40 and max(sizes) == 16 and len(sizes) <= 5


def test_too_much_that_waits_is_refused_and_a_bad_input_harms_no_other(encoder: Encoder) -> None:
    good, bad = Decoded(text="a cat"), Media("image", "bad", b"\xff\xd8\xff")

    async def ask() -> None:
        batcher = Batcher(encoder, limit=3, patience=0.0)
        worker = asyncio.create_task(batcher.run())
        with batcher.reserve(3):
            with pytest.raises(QueueFullError, match="3 inputs wait"), batcher.reserve(1):
                pass
            first = asyncio.create_task(batcher.encode([good, good]))
            with pytest.raises(InputError, match="bad"):
                await batcher.decode(lambda: bad)
            assert (await first).shape == (2, 256)
        with batcher.reserve(3):
            assert (await batcher.encode([good])).shape == (1, 256)
        worker.cancel()

    asyncio.run(ask())
    with TestClient(create_app(encoder, ApiConfig(waiting=1)), base_url="http://localhost") as client:
        response = client.post("/v1/embeddings", json={"input": ["a", "b"]})
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
