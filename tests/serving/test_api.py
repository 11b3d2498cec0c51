"""The API: inputs, errors, the clients of openai and LangChain, and the note of a demo."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import tiktoken
import torch
from fastapi.testclient import TestClient
from langchain_openai import OpenAIEmbeddings
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.registry import demo_note
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.clips import clip
from tests.serving.generators import EchoGenerator
from tests.serving.servers import data_uri, served

Draw = Callable[[int], Image.Image]


def vectors_of(response: dict) -> np.ndarray:
    assert [row["index"] for row in response["data"]] == list(range(len(response["data"])))
    return np.array([row["embedding"] for row in response["data"]], np.float32)


def test_texts(client: TestClient, encoder: Encoder) -> None:
    texts = ["a red mug", "missing.jpg", "/etc/passwd"]  # nothing is a path here
    response = client.post("/v1/embeddings", json={"model": "PE-Core-N16-128", "input": texts})
    assert response.status_code == 200
    np.testing.assert_allclose(vectors_of(response.json()), encoder.encode_texts(texts), atol=1e-5)
    assert response.json()["model"] == "PE-Core-N16-128" and response.json()["usage"]["prompt_tokens"] > 6
    single = client.post("/v1/embeddings", json={"input": "a red mug", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(single["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(decoded, encoder.encode_texts("a red mug"), atol=1e-5)


def test_images_videos_and_texts(client: TestClient, encoder: Encoder, draw: Draw, tmp_path: Path) -> None:
    image, video = draw(3), tmp_path / "clip.mp4"
    video.write_bytes(clip(60))
    film = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    expected = encoder.encode_images([image]), encoder.encode_videos([video]), encoder.encode_texts(["a cat"])
    for given, wanted in (
        ([{"image": data_uri(image)}], expected[0]),
        ({"image": f" {data_uri(image)}\n"}, expected[0]),
        ({"video": film}, expected[1]),
        ({"text": "a cat"}, expected[2]),
        (["a cat", {"image": data_uri(image)}], np.concatenate([expected[2], expected[0]])),
    ):
        response = client.post("/v1/embeddings", json={"model": "builtin", "input": given})
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(vectors_of(response.json()), wanted, atol=1e-4)


def test_fewer_dimensions_are_unit_length(client: TestClient, encoder: Encoder) -> None:
    (found,) = vectors_of(client.post("/v1/embeddings", json={"input": "a cat", "dimensions": 16}).json())
    expected = encoder.encode_texts("a cat")[:16]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_layers_and_pooling(client: TestClient, encoder: Encoder, draw: Draw, tmp_path: Path) -> None:
    image, video = draw(3), tmp_path / "clip.mp4"
    video.write_bytes(clip(60))
    film = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
    for chosen, used in (
        ({"layer": 1}, {"layer": 1, "pool": "mean"}),
        ({"layer": -2, "pool": "mean"}, {"layer": encoder.depth - 2, "pool": "mean"}),
        ({"pool": "mean"}, {"layer": encoder.depth - 1, "pool": "mean"}),
        ({"pool": "attn"}, {"layer": encoder.depth - 1, "pool": "attn"}),
    ):
        for given, expected in (
            ({"input": {"image": data_uri(image)}}, encoder.encode_images([image], **chosen)),
            ({"input": {"video": film}}, encoder.encode_videos([video], **chosen)),
        ):
            answer = client.post("/v1/embeddings", json={**given, **chosen}).json()
            np.testing.assert_allclose(vectors_of(answer), expected, atol=1e-4)
            assert {name: answer[name] for name in used} == used
    body = {"input": [{"image": data_uri(image)}] * 2, "layer": 0, "dimensions": 8, "encoding_format": "base64"}
    row = client.post("/v1/embeddings", json=body).json()["data"][1]
    assert np.linalg.norm(np.frombuffer(base64.b64decode(row["embedding"]), "<f4")) == pytest.approx(1, abs=1e-5)
    assert client.post("/v1/embeddings", json={"input": "a cat", "layer": -1}).status_code == 200
    assert "layer" not in client.post("/v1/embeddings", json={"input": "a cat"}).json()


def test_no_json_and_no_route(client: TestClient) -> None:
    assert client.post("/v1/embeddings", content=b"{").status_code == 400
    assert client.post("/v1/embeddings", content=b"[" * 100_000).status_code == 400
    assert client.post("/v1/embeddings", json={"input": "x"}, headers={"Origin": "http://evil"}).status_code == 403
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/v1/embeddings").status_code == 405
    for path in ("/v1/classify", "/v1/embeddings_image", "/embeddings"):
        assert client.post(path, json={"input": "x"}).status_code == 404
    assert client.get("/etc/passwd").status_code == client.get("/docs").status_code == 404


def test_a_key_is_asked_for(encoder: Encoder) -> None:
    with TestClient(create_app(encoder, ApiConfig(key="secret"))) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            for path in ("/v1/embeddings", "/v1/chat/completions", "/rerank", "/v1/rerank", "/v2/rerank"):
                assert client.post(path, json={"input": "a cat"}, headers=headers).status_code == 401
            for path in ("/v1/models", "/v1/models/builtin"):
                assert client.get(path, headers=headers).status_code == 401
            assert client.get("/openapi.json", headers=headers).status_code == 404
        good = {"Authorization": "Bearer secret"}
        assert client.post("/v1/embeddings", json={"input": "a cat"}, headers=good).status_code == 200
        assert client.get("/v1/models", headers=good).json()["data"][0]["id"] == "PE-Core-N16-128"
        assert client.get("/health").status_code == 200


def test_a_model_without_texts_refuses_them(draw: Draw) -> None:
    tower = Encoder.of(create_model("PE-Spatial-T16-512"), "cpu", torch.float32)
    with TestClient(create_app(tower, ApiConfig()), base_url="http://localhost") as client:
        refused = client.post("/v1/embeddings", json={"input": "a cat"})
        assert refused.status_code == 400 and "no text tower" in refused.json()["error"]["message"]
        seen = client.post("/v1/embeddings", json={"input": {"image": data_uri(draw(1))}})
        assert seen.status_code == 200


NAME = "PE-Core-N16-128"
TEXTS = ["a red mug", "a dog"]


@pytest.fixture(scope="module")
def open_address(encoder: Encoder) -> Iterator[str]:
    with served(create_app(encoder, ApiConfig())) as address:
        yield address


@pytest.fixture
def openai_client(open_address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{open_address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_two_thousand_inputs_are_one_request(openai_client: openai.OpenAI, encoder: Encoder) -> None:
    texts = [f"image number {number}" for number in range(2048)]
    answer = openai_client.embeddings.create(model=NAME, input=texts)
    assert [row.index for row in answer.data] == list(range(2048))
    some = [0, 63, 64, 1000, 2047]
    expected = encoder.encode_texts([texts[number] for number in some])
    np.testing.assert_allclose([answer.data[number].embedding for number in some], expected, atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="1 to 2048"):
        openai_client.embeddings.create(model=NAME, input=["a"] * 2049)
    with pytest.raises(openai.BadRequestError, match="2,000,000 characters"):
        openai_client.embeddings.create(model=NAME, input=["a" * 20_000] * 101)


def test_openai_models(openai_client: openai.OpenAI) -> None:
    assert openai_client.models.retrieve("builtin").id == openai_client.models.retrieve(NAME).id == NAME
    for ask in (
        lambda: openai_client.models.retrieve("text-embedding-3-small"),
        lambda: openai_client.embeddings.create(model="text-embedding-3-small", input="a dog"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "model_not_found" and caught.value.param == "model"
        assert NAME in caught.value.message


@pytest.fixture
def cl100k(monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken's default encoding without its download: bytes as ids, as far as those of short texts go."""
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=".+", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)


@pytest.mark.usefixtures("cl100k")
def test_langchain_is_told_the_setting_to_use(open_address: str, encoder: Encoder) -> None:
    settings = {"model": NAME, "base_url": f"{open_address}/v1", "api_key": "none", "max_retries": 0}
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        OpenAIEmbeddings(**settings).embed_documents(TEXTS)
    works = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False)
    np.testing.assert_allclose(works.embed_documents(TEXTS), encoder.encode_texts(TEXTS), atol=1e-4)
    np.testing.assert_allclose(works.embed_query("a dog"), encoder.encode_texts("a dog"), atol=1e-4)


@pytest.fixture
def demo(encoder: Encoder) -> Encoder:
    demo = copy.copy(encoder)
    demo.name = "builtin"
    return demo


HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def test_the_apis_say_that_a_demo_answers(demo: Encoder, encoder: Encoder) -> None:
    queue = GenerationQueue("builtin-lang", EchoGenerator)
    with TestClient(create_app(demo, ApiConfig(), chat=queue), base_url="http://localhost") as client:
        vectors = client.post("/v1/embeddings", json={"input": "a"}).json()
        answer = client.post("/v1/chat/completions", json=HELLO).json()
        stream = client.post("/v1/chat/completions", json={**HELLO, "stream": True}).text
        models = {model["id"]: model["note"] for model in client.get("/v1/models").json()["data"]}
    for found, name in ((vectors, "builtin"), (answer, "builtin-lang")):
        assert found["model"] == name and found["note"] == models[name] == demo_note(name) != ""
    first, *rest = [json.loads(line[6:]) for line in stream.split("\n\n") if line.startswith("data: {")]
    assert first["note"] == demo_note("builtin-lang") and all("note" not in event for event in rest)
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        assert "note" not in client.post("/v1/embeddings", json={"input": "a"}).json()
