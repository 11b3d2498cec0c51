"""`/rerank`: texts and images on both sides, and bad requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.serving.servers import data_uri

Draw = Callable[[int], Image.Image]
NAME = "PE-Core-N16-128"
DOCUMENTS = ["a dog", "a red mug", "a cat on a sofa"]


def cosines(encoder: Encoder, query: object, others: list) -> np.ndarray:
    return encoder.encode(others) @ encoder.encode([query])[0]


def test_documents_are_ranked_by_cosine(client: TestClient, encoder: Encoder) -> None:
    expected = cosines(encoder, "a mug", DOCUMENTS)
    order = np.argsort(-expected)
    body = {"model": NAME, "query": "a mug", "documents": DOCUMENTS}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        answer = client.post(path, json=body).json()
        assert [row["index"] for row in answer["results"]] == order.tolist()
        scores = [row["relevance_score"] for row in answer["results"]]
        np.testing.assert_allclose(scores, expected[order], atol=1e-4)
        assert answer["object"] == "rerank" and answer["model"] == NAME
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 8
        assert not any("document" in row for row in answer["results"])
    best = client.post("/v1/rerank", json={**body, "top_n": 1, "return_documents": True}).json()["results"]
    assert [(row["index"], row["document"]) for row in best] == [(order[0], {"text": DOCUMENTS[order[0]]})]
    assert len(client.post("/v1/rerank", json={**body, "top_n": 99, "return_documents": None}).json()["results"]) == 3


def test_texts_and_images_are_ranked_together(encoder: Encoder, draw: Draw) -> None:
    image, other = draw(3), draw(5)
    documents = [{"text": "a red mug"}, {"image": data_uri(other)}, "a cat"]
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        for query, media in (({"image": data_uri(image)}, image), ("a cat", "a cat")):
            body = {"model": NAME, "query": query, "documents": documents, "return_documents": True}
            answer = client.post("/v1/rerank", json=body)
            assert answer.status_code == 200, answer.text
            results = sorted(answer.json()["results"], key=lambda row: row["index"])
            expected = cosines(encoder, media, ["a red mug", other, "a cat"])
            np.testing.assert_allclose([row["relevance_score"] for row in results], expected, atol=1e-4)
            assert [row["document"] for row in results] == [*documents[:2], {"text": "a cat"}]


@pytest.mark.security
@pytest.mark.parametrize(
    ("body", "parameter", "said"),
    [
        ({"query": ["x"], "documents": ["x"]}, "query", "query must be a string"),
        ({"query": "x", "documents": []}, "documents", "documents must be a list"),
        ({"query": "x", "documents": ["x"] * 8}, "documents", "1 to 8"),
        ({"query": "x", "documents": ["x"], "top_n": 0}, "top_n", "top_n is 0; it must be an integer"),
        ({"query": "x", "documents": ["x"], "return_documents": 1}, "return_documents", "valid boolean"),
        ({"query": "x", "documents": ["x", {}]}, "documents", "documents 1 must have one of the fields"),
        ({"query": "x", "documents": [{"image": "file:///etc/passwd"}]}, "documents", "neither an http(s)"),
        ({"query": "x", "documents": ["http://127.0.0.1/a.png"]}, "documents", "the address of a file, not a text"),
        ({"query": "x", "documents": [{"image": "http://a/b"}]}, "documents", "--allow-urls"),
        ({"query": "x", "documents": ["y"], "model": "jina-reranker-m0"}, "model", "no model"),
        ({"query": "x", "documents": ["x"], "top_k": 1}, "top_k", "top_k is 1; this server does not support"),
        ([], None, "must be a JSON object"),
    ],
)
def test_bad_requests(client: TestClient, body: object, parameter: str | None, said: str) -> None:
    response = client.post("/v1/rerank", json=body)
    error = response.json()["error"]
    assert response.status_code == (404 if parameter == "model" else 400) and error["type"] == "invalid_request_error"
    assert said in error["message"] and error["param"] == parameter and len(error["message"]) < 300
