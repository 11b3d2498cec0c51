"""Requests are validated, and refused in OpenAI's form."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import create_app
from perception_encoder.serving.parsing import ApiError
from perception_encoder.serving.requests import ApiConfig, parse_request


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
        ({"input": "http://127.0.0.1:9/a.png", "modality": "image"}, 400, "not a public address"),
        ({"input": "data:image/png;base64,%%%", "modality": "image"}, 400, "not valid base64"),
        ({"input": "data:image/png,abc", "modality": "image"}, 400, "not a base64 data URI"),
        ({"input": "data:image/png;base64,aGVsbG8=", "modality": "image"}, 400, "image"),
        ({"messages": []}, 400, "one part"),
        ({"messages": "x"}, 400, "one part"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, 400, "one part"),
        ({"input": "x" * (1 << 20)}, 413, "1,048,576 bytes"),
        ({"input": "x" * 20_001}, 400, "20,000 characters"),
        ({"input": ["data:,", "data:,", "data:,"], "modality": "image"}, 400, "at most 2"),
        ({"input": "http://x y/../../secret.jpg", "modality": "image"}, 400, "neither an http(s) address"),
    ],
)
def test_bad_requests_are_reported_in_openais_form(client: TestClient, body: object, status: int, said: str) -> None:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error["message"] and error["code"] == (status if status != 404 else "model_not_found")
    assert len(error["message"]) < 300
    assert client.get("/health").json()["status"] == "ok"


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


@pytest.mark.parametrize("body", [b'{"input": "a \\ud800 cat"}', b'{"input": ["\\udfff"]}'])
def test_half_of_a_surrogate_pair_is_a_bad_request(encoder: Encoder, body: bytes) -> None:
    with TestClient(create_app(encoder, ApiConfig()), base_url="http://localhost") as client:
        answer = client.post("/v1/embeddings", content=body)
        assert answer.status_code == 400 and "surrogate" in answer.json()["error"]["message"]
        body = b'{"input": "data:image/png;base64,\\ud800", "modality": "image"}'
        assert client.post("/v1/embeddings", content=body).status_code == 400


def test_only_the_messages_of_the_user_count(client: TestClient) -> None:
    others = [
        {"role": "system", "content": [{"type": "sound", "sound": "x"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    user = {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "a cat"}]}
    found = client.post("/v1/embeddings", json={"messages": [*others, user]})
    assert found.status_code == 200, found.text
    assert found.json()["data"] == client.post("/v1/embeddings", json={"input": "a cat"}).json()["data"]
    assert client.post("/v1/embeddings", json={"messages": others}).status_code == 400


@pytest.mark.parametrize("item", [b"1.5", b"null", b"[1.5,1.5]"])
def test_half_a_million_wrong_values_are_one_error(item: bytes) -> None:
    body = b'{"input": [[' + b",".join([item] * (400_000 if item != b"[1.5,1.5]" else 10_000)) + b"]]}"
    began = time.process_time()
    with pytest.raises(ApiError, match="input must be a string"):
        parse_request(body)
    assert time.process_time() - began < 1
