"""Requests for embeddings and rankings: validated, refused in OpenAI's form, their media read within limits."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.serving import api
from perception_encoder.serving.api import count_tokens, create_app
from perception_encoder.serving.requests import ApiConfig, parse_request
from perception_encoder.web_server.http import ApiError
from tests.serving.servers import data_uri
from tests.web import serving

pytestmark = pytest.mark.security


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "must be a JSON object"),
        ({"input": ["x"] * 9}, 400, "input has 9 items; it takes 1 to 8"),
        ({"input": ""}, 400, "input 0 is empty"),
        ({"input": ["x", {"text": ""}]}, 400, "input 1 is empty"),
        ({"input": [1, 2]}, 400, "check_embedding_ctx_length=False"),
        ({"input": "x", "model": "text-embedding-3-small"}, 404, "no model 'text-embedding-3-small'"),
        ({"input": "x", "dimensions": int("9" * 400)}, 400, "1 to 256"),
        ({"input": "data:application/pdf;base64,aGVsbG8="}, 400, "input 0 is a data URI or the address of a file"),
        ({"input": ["a", " https://example.com/A.JPG "]}, 400, "input 1 is a data URI or the address"),
        ({"input": {"text": "data:;base64,aGVsbG8="}}, 400, 'send {"image": …} or {"video": …}'),
        ({"input": {"image": "https://example.com/a.png"}}, 400, "start the server with --allow-urls"),
        ({"input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": {"image": "/etc/passwd"}}, 400, "neither an http(s) address nor a data URI"),
        ({"input": {"image": "file:///etc/passwd"}}, 400, "neither an http(s) address"),
        ({"input": {"image": "data:image/png;base64,aé"}}, 400, "not valid base64"),
        ({"input": "x", "output_dimension": 64}, 400, "output_dimension is 64; this server does not support it"),
        ({"input": "x", "extra": "y" * 999}, 400, "extra is 'yyy"),
        ({"input": {"image": "data:image/png;base64,aGVsbG8="}}, 400, "image"),
        ({"input": [{"picture": "x"}]}, 400, "input 0 must have one of the fields text, image and video"),
        ({"input": {"image": "data:image/png;base64,aGVs"}, "layer": 99}, 400, "layer 99 does not exist"),
        ({"input": {"image": "data:image/png;base64,aGVs"}, "layer": 1.5}, 400, "a valid integer"),
        ({"input": {"image": "data:image/png;base64,aGVs"}, "layer": 0, "pool": "attn"}, 400, "no pool 'attn' after"),
        ({"input": "a cat", "layer": 0}, 400, "texts have the model's own output only"),
        ({"input": "x" * (1 << 20)}, 413, "1,048,576 bytes"),
        ({"input": [{"image": "data:,"}] * 3}, 400, "at most 2"),
    ],
)
def test_bad_requests_are_reported_in_openais_form(client: TestClient, body: object, status: int, said: str) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error["message"] and error["code"] == ("model_not_found" if status == 404 else None)
    assert len(error["message"]) < 300
    assert client.get("/health").json()["status"] == "ok"


def test_fields_that_change_nothing_are_accepted(client: TestClient) -> None:
    plain = client.post("/v1/embeddings", json={"input": "a cat"}).json()["data"]
    answer = client.post("/v1/embeddings", json={"input": "a cat", "user": "someone", "more": None})
    assert answer.status_code == 200 and answer.json()["data"] == plain
    for field in ("top_k", "dimension"):
        refused = client.post("/v1/embeddings", json={"input": "a cat", field: 1}).json()["error"]
        assert refused["param"] == field and "it takes model, input, encoding_format" in refused["message"]


def test_addresses_are_fetched_only_if_allowed_and_private_ones_never(encoder: Encoder) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(stream, "PNG")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(stream.getvalue())

    asked: list[str] = []
    with serving(answer) as url:
        local = FetchLimits(allow_private=True)
        for config, status, count in (
            (ApiConfig(fetch=local), 400, 0),
            (ApiConfig(allow_urls=True), 400, 0),
            (ApiConfig(allow_urls=True, fetch=local), 200, 1),
        ):
            app = create_app(encoder, config)
            with TestClient(app, base_url="http://localhost") as client:
                body = {"input": {"image": f"{url}/a.png"}}
                assert client.post("/v1/embeddings", json=body).status_code == status
            assert len(asked) == count


def test_a_blank_text_has_an_embedding_and_fails_no_batch(client: TestClient) -> None:
    alone, together = (client.post("/v1/embeddings", json={"input": item}) for item in (" ", ["a cat", "\n", " "]))
    assert alone.status_code == together.status_code == 200
    np.testing.assert_allclose(together.json()["data"][1]["embedding"], alone.json()["data"][0]["embedding"], atol=1e-5)


def test_inputs_beyond_the_limits_are_not_read(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading half a million would block all other requests for seconds."""
    read = []
    monkeypatch.setattr("perception_encoder.serving.requests._is_media_address", lambda text: read.append(text))
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        for path, body in (
            ("embeddings", {"input": ["a"] * 100_000}),
            ("embeddings", {"input": " " * 20_001}),
            ("rerank", {"query": "a", "documents": ["a"] * 100_000}),
        ):
            assert client.post(f"/v1/{path}", json=body).status_code == 400
    assert read == ["a"]  # the query


def test_errors_have_openais_types_and_codes(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ApiConfig(key="secret", waiting=1)
    with TestClient(create_app(encoder, config), base_url="http://localhost", raise_server_exceptions=False) as client:

        def error(path: str, body: object = None, key: str = "secret") -> tuple[int, str, str | None]:
            headers = {"Authorization": f"Bearer {key}"}
            answer = (
                client.get(path, headers=headers) if body is None else client.post(path, json=body, headers=headers)
            )
            return answer.status_code, answer.json()["error"]["type"], answer.json()["error"]["code"]

        assert error("/v1/models", key="wrong") == (401, "invalid_request_error", "invalid_api_key")
        assert error("/v1/embeddings", {"input": ["a", "b"]}) == (429, "requests", "rate_limit_exceeded")
        assert error("/v1/nothing") == (404, "invalid_request_error", "unknown_url")
        assert error("/v1/embeddings") == (405, "invalid_request_error", "method_not_supported")
        assert error("/v1/embeddings", {"input": 7}) == (400, "invalid_request_error", None)
        monkeypatch.setattr(api, "embed_inputs", None)
        assert error("/v1/embeddings", {"input": "a"}) == (500, "server_error", None)


def test_pages_of_named_origins_may_use_the_api(encoder: Encoder) -> None:
    config = ApiConfig(origins=("https://app.example",))
    with TestClient(create_app(encoder, config), base_url="http://localhost") as client:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        for origin, preflight, status in (("https://app.example", 200, 200), ("https://evil.example", 400, 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
            answers = [
                client.options("/v1/embeddings", headers=headers | asked),
                client.post("/v1/embeddings", json={"input": "a"}, headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [preflight, status]
            allowed = {answer.headers.get("access-control-allow-origin") for answer in answers}
            assert allowed == ({origin} if status == 200 else {None})


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * 5_000_000 + b"0]",
        b"[" + b"{}," * 1_000_000 + b"{}]",
        b'{"input": "' + b"\\u0041" * 1_000_000 + b'"}',
    ],
    ids=["numbers", "objects", "escapes"],
)
def test_a_body_that_takes_long_to_parse_is_refused(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(ApiError, match="more than the limit"):
        parse_request(body)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("item", [b"1.5", b"null", b"[1.5,1.5]"])
def test_half_a_million_wrong_values_are_one_error(item: bytes) -> None:
    body = b'{"input": [[' + b",".join([item] * (400_000 if item != b"[1.5,1.5]" else 10_000)) + b"]]}"
    began = time.process_time()
    with pytest.raises(ApiError, match="input must be a string"):
        parse_request(body)
    assert time.process_time() - began < 1


def test_texts_count_their_tokens_and_media_their_patches(encoder: Encoder) -> None:
    texts = ["a red mug", "a cat"]
    tokens = sum(int(ids.argmax()) + 1 for ids in encoder.tokenizer.ids(texts))
    patches = encoder.visual.config.grid**2
    assert count_tokens(encoder, [("text", text) for text in texts]) == tokens > 6
    assert count_tokens(encoder, [("text", texts[0]), ("text", texts[1]), ("image", ""), ("video", "")]) == (
        tokens + 9 * patches
    )


@pytest.mark.parametrize("body", [b'{"input": "a \\ud800 cat"}', b'{"input": ["\\udfff"]}'])
def test_half_of_a_surrogate_pair_is_a_bad_request(encoder: Encoder, body: bytes) -> None:
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        answer = client.post("/v1/embeddings", content=body)
        assert answer.status_code == 400 and "surrogate" in answer.json()["error"]["message"]
        body = b'{"input": {"image": "data:image/png;base64,\\ud800"}}'
        assert client.post("/v1/embeddings", content=body).status_code == 400


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
        ({"query": "x", "documents": ["x"] * 8}, "documents", "documents has 8 items; it takes 1 to 7"),
        ({"query": "", "documents": ["x"]}, "query", "query 0 is empty"),
        ({"query": "x", "documents": ["x", ""]}, "documents", "documents 1 is empty"),
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
