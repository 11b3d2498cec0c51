"""A built-in model says that it is a demo wherever it answers; see also tests/cli/test_demo_models.py."""

from __future__ import annotations

import copy
import json

import pytest
from fastapi.testclient import TestClient

from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.registry import demo_note
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.serving.generators import EchoGenerator


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
