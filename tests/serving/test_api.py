"""The embedding server: both dialects, the real openai client, batches, limits and errors."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.clips import clip
from tests.serving.servers import data_uri

Draw = Callable[[int], Image.Image]


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


def test_images_and_videos_in_both_dialects(client: TestClient, encoder: Encoder, draw: Draw, tmp_path: Path) -> None:
    image, video = draw(3), tmp_path / "clip.mp4"
    video.write_bytes(clip(60))
    film = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    expected = encoder.encode_images([image]), encoder.encode_videos([video])
    params = [
        ({"input": [data_uri(image)], "modality": "image"}, expected[0]),
        ({"messages": [_user({"type": "image_url", "image_url": {"url": data_uri(image)}})]}, expected[0]),
        ({"input": film, "modality": "video"}, expected[1]),
        ({"messages": [_user({"type": "video_url", "video_url": {"url": film}})]}, expected[1]),
        ({"messages": [{"role": "user", "content": "a cat"}]}, encoder.encode_texts(["a cat"])),
        ({"messages": [{"role": "system", "content": "x"}, _user({"type": "text", "text": "a cat"})]}, None),
    ]
    for body, wanted in params:
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
