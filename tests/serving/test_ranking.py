"""`/rerank` and `/classify`: texts and images on both sides, in infinity's and in Jina's form, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving import ranking
from perception_encoder.serving.api import create_app
from perception_encoder.serving.requests import ApiConfig
from tests.serving.servers import data_uri, served

Draw = Callable[[int], Image.Image]
NAME = "PE-Core-N16-128"
DOCUMENTS = ["a dog", "a red mug", "a cat on a sofa"]
LABELS = ["a red circle", "a green square", "a blue triangle"]


def cosines(encoder: Encoder, query: object, others: list) -> np.ndarray:
    return encoder.encode(others) @ encoder.encode([query])[0]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def base64_of(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def test_documents_are_ranked_by_cosine(client: TestClient, encoder: Encoder) -> None:
    expected = cosines(encoder, "a mug", DOCUMENTS)
    order = np.argsort(-expected)
    body = {"model": NAME, "query": "a mug", "documents": DOCUMENTS}
    for path in ("/rerank", "/v1/rerank"):
        answer = client.post(path, json=body).json()
        assert [row["index"] for row in answer["results"]] == order.tolist()
        scores = [row["relevance_score"] for row in answer["results"]]
        np.testing.assert_allclose(scores, expected[order], atol=1e-4)
        assert answer["object"] == "rerank" and answer["model"] == NAME
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 8
        assert not any("document" in row for row in answer["results"])
    best = client.post("/v1/rerank", json={**body, "top_n": 1, "return_documents": True}).json()["results"]
    assert [(row["index"], row["document"]) for row in best] == [(order[0], DOCUMENTS[order[0]])]
    assert len(client.post("/v1/rerank", json={**body, "top_n": 99, "return_documents": None}).json()["results"]) == 3


def test_texts_and_images_are_ranked_together_as_jina_sends_them(encoder: Encoder, draw: Draw) -> None:
    image, other = draw(3), draw(5)
    document = {"text": "a red mug", "id": "7"}
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        for query, media in (({"image": data_uri(image)}, image), ("a cat", "a cat"), (data_uri(image), image)):
            body = {
                "model": NAME,
                "query": query,
                "documents": [document, {"image": base64_of(other)}, data_uri(image)],
                "return_documents": True,
            }
            answer = client.post("/v1/rerank", json=body)
            assert answer.status_code == 200, answer.text
            results = sorted(answer.json()["results"], key=lambda row: row["index"])
            decoded = Image.open(io.BytesIO(base64.b64decode(base64_of(other))))
            expected = cosines(encoder, media, ["a red mug", decoded, image])
            np.testing.assert_allclose([row["relevance_score"] for row in results], expected, atol=1e-4)
            assert results[0]["document"] == document and results[2]["document"] == data_uri(image)


def test_inputs_are_classified_as_at_jina(client: TestClient, encoder: Encoder, draw: Draw) -> None:
    image = draw(3)
    scale = encoder.logit_scale
    assert scale is not None
    for given, media in (({"image": data_uri(image)}, image), ({"text": "a disc"}, "a disc")):
        body = {"model": NAME, "input": [given], "labels": LABELS}
        answer = client.post("/v1/classify", json=body).json()
        (row,) = answer["data"]
        expected = softmax(scale * cosines(encoder, media, LABELS))
        assert [entry["label"] for entry in row["predictions"]] == LABELS
        np.testing.assert_allclose([entry["score"] for entry in row["predictions"]], expected, atol=1e-3)
        assert (row["object"], row["index"], row["prediction"]) == ("classification", 0, LABELS[expected.argmax()])
        assert row["score"] == max(entry["score"] for entry in row["predictions"])
        assert answer["usage"]["total_tokens"] > 9
    shown = client.post("/classify", json={"input": "a disc", "labels": [{"image": data_uri(draw(4))}, "a disc"]})
    assert shown.json()["data"][0]["prediction"] == "a disc"


@pytest.mark.parametrize("base", ["", "/v1"])
def test_infinitys_client_ranks_and_classifies(encoder: Encoder, draw: Draw, base: str) -> None:
    infinity_client = pytest.importorskip("infinity_client")
    from infinity_client.api.default import classify, models, rerank
    from infinity_client.models import ClassifyInput, RerankInput

    image = draw(3)
    with (
        served(create_app(encoder, ApiConfig())) as address,
        infinity_client.Client(base_url=address + base) as client,
    ):
        assert {"rerank", "classify"} < set(models.sync(client=client).data[0].capabilities)
        ranked = rerank.sync(client=client, body=RerankInput("a mug", DOCUMENTS, return_documents=True, top_n=2))
        expected = cosines(encoder, "a mug", DOCUMENTS)
        assert [row.index for row in ranked.results] == np.argsort(-expected)[:2].tolist()
        assert [row.document for row in ranked.results] == [DOCUMENTS[row.index] for row in ranked.results]
        for raw in (False, True):
            request = ClassifyInput([data_uri(image)], raw_scores=raw)
            request["labels"] = LABELS
            (row,) = classify.sync(client=client, body=request).data
            scores = cosines(encoder, image, LABELS)
            order = np.argsort(-scores)
            assert [entry.label for entry in row] == [LABELS[index] for index in order]
            wanted = scores if raw else softmax((encoder.logit_scale or 0) * scores)
            np.testing.assert_allclose([entry.score for entry in row], wanted[order], atol=1e-4 if raw else 1e-3)


@pytest.mark.security
@pytest.mark.parametrize(
    ("path", "body", "parameter", "said"),
    [
        ("rerank", {"documents": ["x"]}, "query", "query must be a string"),
        ("rerank", {"query": ["x"], "documents": ["x"]}, "query", "query must be a string"),
        ("rerank", {"query": "x"}, "documents", "documents must be a list"),
        ("rerank", {"query": "x", "documents": []}, "documents", "documents must be a list"),
        ("rerank", {"query": "x", "documents": "x"}, "documents", "documents must be a list"),
        ("rerank", {"query": "x", "documents": ["x", 1]}, "documents", "documents must be a list"),
        ("rerank", {"query": "x", "documents": ["x"] * 8}, "documents", "1 to 8"),
        ("rerank", {"query": "x", "documents": ["x"], "top_n": 0}, "top_n", "top_n is 0; it must be an integer"),
        ("rerank", {"query": "x", "documents": ["x"], "top_n": "2"}, "top_n", "an integer of at least 1"),
        ("rerank", {"query": "x", "documents": ["x"], "return_documents": 1}, "return_documents", "true or false"),
        ("rerank", {"query": "x", "documents": ["x", {}]}, "documents", "documents 1 must have one of the fields"),
        ("rerank", {"query": {"text": "a", "image": "b"}, "documents": ["x"]}, "query", "one of the fields text"),
        ("rerank", {"query": "x", "documents": [{"image": "/etc/passwd"}]}, "documents", "not valid base64"),
        ("rerank", {"query": "x", "documents": [{"image": "file:///etc/passwd"}]}, "documents", "neither an http(s)"),
        ("rerank", {"query": "x", "documents": ["http://127.0.0.1/a.png"]}, "documents", "not a public address"),
        ("rerank", {"query": "x", "documents": [{"text": "data:image/png;base64,aGVs"}]}, "documents", "is a data URI"),
        ("rerank", {"query": "x", "documents": ["y"], "model": "jina-reranker-m0"}, "model", "no model"),
        ("rerank", {"query": "x", "documents": [{"image": "é"}]}, "documents", "not valid base64"),
        ("rerank", {"query": "x", "documents": ["x"], "top_k": 1}, "top_k", "top_k is 1; this server does not support"),
        (
            "classify",
            {"input": "x", "labels": LABELS, "top_k": 1},
            "top_k",
            "it takes model, input, labels, raw_scores",
        ),
        ("classify", {"input": {"image": "é"}, "labels": LABELS}, "input", "not valid base64"),
        ("classify", {"labels": LABELS}, "input", "input must be a list"),
        ("classify", {"input": [], "labels": LABELS}, "input", "input must be a list"),
        ("classify", {"input": "x"}, "labels", "at least two"),
        ("classify", {"input": "x", "labels": ["one"]}, "labels", "at least two"),
        ("classify", {"input": "x", "labels": LABELS, "raw_scores": "yes"}, "raw_scores", "true or false"),
        ("classify", {"input": ["x"] * 6, "labels": LABELS}, "input", "1 to 8"),
        ("classify", [], None, "must be a JSON object"),
    ],
)
def test_bad_requests(client: TestClient, path: str, body: object, parameter: str | None, said: str) -> None:
    response = client.post(f"/v1/{path}", json=body)
    error = response.json()["error"]
    assert response.status_code == (404 if parameter == "model" else 400) and error["type"] == "invalid_request_error"
    assert said in error["message"] and error["param"] == parameter and len(error["message"]) < 300


def test_answers_are_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input's answer repeats all labels."""
    monkeypatch.setattr(ranking, "_ANSWER", 300)
    body = {"input": ["a", "b"], "labels": [{"text": "cat", "more": "x" * 500}, "dog"]}
    answer = client.post("/v1/classify", json=body)
    assert answer.status_code == 200 and "xxx" not in answer.text
    refused = client.post("/v1/classify", json={**body, "input": ["a", "b", "c", "d"]})
    assert refused.status_code == 400 and "fewer inputs or labels" in refused.json()["error"]["message"]


def test_the_key_is_needed(encoder: Encoder) -> None:
    with TestClient(create_app(encoder, ApiConfig(key="secret"))) as client:
        for path, body in (
            ("rerank", {"query": "a", "documents": ["b"]}),
            ("classify", {"input": "a", "labels": LABELS}),
        ):
            assert client.post(f"/v1/{path}", json=body).status_code == 401
            good = client.post(f"/v1/{path}", json=body, headers={"Authorization": "Bearer secret"})
            assert good.status_code == 200
        assert 'route="/rerank",status="200"' in client.get("/metrics", headers={"Authorization": "Bearer secret"}).text
