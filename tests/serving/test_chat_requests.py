"""Requests of the chat API are validated, and refused in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.serving.api import create_app
from perception_encoder.serving.chat import ALLOWED, ChatRequest, check_chat
from perception_encoder.serving.http import parse_body
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.serving.generators import EchoGenerator
from tests.serving.servers import data_uri

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def chat(encoder: Encoder) -> Iterator[TestClient]:
    config = ApiConfig(files=2, body_bytes=1 << 20, conversation_characters=1000)
    app = create_app(encoder, config, chat=GenerationQueue("echo", EchoGenerator))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def of_user(*parts: dict) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}]}


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("body", "parameter", "message"),
    [
        ([], None, "must be a JSON object"),
        ({}, "messages", "messages must be a list"),
        ({"messages": []}, "messages", "messages must be a list"),
        ({"messages": "hello"}, "messages", "messages must be a list"),
        ({"messages": [{"role": "user"}]}, "messages", "the messages have no content; messages must be"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role", "one of system, developer, user"),
        (
            {"messages": [{"role": "developer", "content": [IMAGE]}]},
            "messages[0]",
            "only the user's messages may",
        ),
        (of_user({"type": "text", "text": "a"}, {"type": "input_audio"}), "messages[0].content[1]", "'input_audio'"),
        (of_user({"type": "image_url"}), "messages[0].content[0]", "an image_url {url}"),
        (of_user({"type": "image_url", "image_url": {"href": "x"}}), "messages", "messages must be a list"),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}]},
            "messages[0]",
            "only the user's messages may",
        ),
        (of_user(IMAGE, IMAGE, IMAGE), "messages", "3 images or videos; a conversation takes at most 2"),
        ({"messages": [{"role": "user", "content": "x" * 1001}]}, "messages", "1,001 characters; the limit is 1,000"),
        ({"messages": HELLO, "n": 2}, "n", "n is 2; this server does not support it"),
        ({"messages": HELLO, "temperature": 3}, "temperature", "temperature is 3.0; it must be from 0 to 2"),
        ({"messages": HELLO, "temperature": "warm"}, "temperature", "temperature is 'warm'; it must be from 0 to 2"),
        ({"messages": HELLO, "top_p": 0}, "top_p", "top_p is 0.0; it must be above 0"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be at least 1"),
        ({"messages": HELLO, "max_completion_tokens": 0}, "max_completion_tokens", "is 0; it must be at least 1"),
        ({"messages": HELLO, "max_tokens": 1.5}, "max_tokens", "max_tokens is 1.5; it must be a whole number"),
        ({"messages": HELLO, "stop": ["a", ""]}, "stop", "none of them empty"),
        ({"messages": HELLO, "stop": ["a"] * 5}, "stop", "at most 4 strings"),
        ({"messages": HELLO, "stop": 7}, "stop", "stop is 7; it must be a string"),
        ({"messages": HELLO, "seed": 1 << 64}, "seed", "at most 64 bits"),
        ({"messages": HELLO, "stream": "yes"}, "stream", "stream is 'yes'; it must be true or false"),
        ({"messages": HELLO, "stream_options": 1}, "stream_options", "{include_usage: true or false}"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "this server does not support it"),
        ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format", "does not support it"),
        ({"messages": HELLO, "logprobs": True}, "logprobs", "logprobs is True; this server does not support it"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice", "does not support it"),
        ({"messages": HELLO, "frequency_penalty": 3}, "frequency_penalty", "is 3.0; it must be from -2 to 2"),
        ({"messages": HELLO, "presence_penalty": "x"}, "presence_penalty", "'x'; it must be from -2 to 2"),
    ],
)
def test_bad_requests_are_reported_in_openais_form(
    chat: TestClient, body: object, parameter: str | None, message: str
) -> None:
    response = chat.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"] and error["param"] == parameter and len(error["message"]) < 300
    assert error["type"] == "invalid_request_error"
    assert error["code"] == ("context_length_exceeded" if "characters" in message else None)


def test_values_that_change_nothing_and_unknown_fields_are_accepted(chat: TestClient) -> None:
    extra = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "user": "someone",
        "stop": None,
        "max_tokens": None,
    }
    response = chat.post("/v1/chat/completions", json={"messages": HELLO, **extra})
    assert response.status_code == 200 and response.json()["choices"][0]["message"]["content"] == "hello "


def test_clients_messages_of_every_role_are_read(encoder: Encoder) -> None:
    echo = EchoGenerator()
    image = data_uri(Image.new("RGB", (4, 3)))
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "image_url", "image_url": image}]},  # not the usual {"url": …}
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    with TestClient(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", lambda: echo))) as client:
        client.base_url = "http://localhost"
        answer = client.post("/v1/chat/completions", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    (conversation,) = echo.conversations
    assert [message.role for message in conversation] == ["system", "user", "assistant", "user"]
    assert (
        conversation[1].media[0].size == (4, 3) and conversation[2].content == () and conversation[3].content == ("42",)
    )


def test_sampling_is_the_requests() -> None:
    body = b'{"messages": [{"content": "a"}], "stop": "x", "temperature": 1, "top_p": 0.5, "seed": -3, "max_tokens": 9}'
    _, first = check_chat(parse_body(body, ChatRequest, ALLOWED), ApiConfig(), "echo")
    assert (first.stop, first.temperature, first.top_p, first.seed, first.max_tokens) == (("x",), 1, 0.5, -3, 9)
    assert not first.cut and first.presence_penalty == first.frequency_penalty == 0
    penalties = b'{"messages": [{"content": "a"}], "presence_penalty": 1, "frequency_penalty": -0.5}'
    _, penalised = check_chat(parse_body(penalties, ChatRequest, ALLOWED), ApiConfig(), "echo")
    assert (penalised.presence_penalty, penalised.frequency_penalty) == (1, -0.5)
    both = b'{"messages": [{"content": "a"}], "max_tokens": 9, "max_completion_tokens": 5}'
    seeds = set()
    for _ in range(2):
        _, second = check_chat(parse_body(both, ChatRequest, ALLOWED), ApiConfig(), "echo")
        seeds.add(second.seed)
    assert second.max_tokens == 5 and second.temperature == 0
    assert len(seeds) == 2, "without a seed, answers differ when they are drawn"
