"""The chat API with the openai client, LangChain's and plain requests, over a real socket."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from perception_encoder.errors import ConfigError, WeightsUnavailableError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.serving.api import create_app
from perception_encoder.serving.chat import NO_MODEL, check_chat, parse_chat
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.clips import clip
from tests.serving.generators import ENDLESS, TOO_LONG, EchoGenerator
from tests.serving.servers import data_uri, served
from tests.tiny_language_models import tiny_language_model

RED = data_uri(Image.new("RGB", (40, 30), "red"))
FILM = "data:video/mp4;base64," + base64.b64encode(clip(60)).decode()


class BreakingGenerator(EchoGenerator):
    """Fails after a word."""

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> Generator[str, None, Reply]:
        yield "a "
        raise ConfigError("the model broke")


@pytest.fixture
def echo() -> EchoGenerator:
    return EchoGenerator()


@pytest.fixture
def address(encoder: Encoder, echo: EchoGenerator) -> Iterator[str]:
    queue = GenerationQueue("echo", lambda: echo, source="runs/echo", limit=3)
    with served(create_app(encoder, ApiConfig(files=2), chat=queue)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(*parts: str) -> dict:
    """A message of texts, images and videos."""
    return {"role": "user", "content": [part_of(part) for part in parts]}


def part_of(value: str) -> dict:
    if value.startswith("data:video"):
        return {"type": "video_url", "video_url": {"url": value}}
    if value.startswith(("data:", "http:")):
        return {"type": "image_url", "image_url": {"url": value, "detail": "auto"}}
    return {"type": "text", "text": value}


def test_openai_reads_an_answer(client: openai.OpenAI, echo: EchoGenerator) -> None:
    before = int(time.time())
    messages = [
        {"role": "system", "content": "Be brief."},
        user(RED, "what is this?"),
        {"role": "assistant", "content": "An image."},
        user("which", FILM, "is red?"),
    ]
    answer = client.chat.completions.create(model="echo", messages=messages, temperature=0.5, top_p=0.9, seed=3, n=1)
    (choice,) = answer.choices
    assert choice.message.content == "40x30 8 frames is red? " and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.index == 0
    assert answer.object == "chat.completion" and answer.model == "echo" and answer.id.startswith("chatcmpl-")
    assert before <= answer.created <= time.time()
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 4
    (conversation,) = echo.conversations
    assert [message.role for message in conversation] == ["system", "user", "assistant", "user"]
    assert [type(part) for part in conversation[3].content][::2] == [str, str]
    assert conversation[1].media[0].getpixel((5, 5)) == (255, 0, 0)


def test_openai_reads_a_streamed_answer(client: openai.OpenAI) -> None:
    messages = [user(RED, "what is this?")]
    with client.chat.completions.create(
        model="runs/echo", messages=messages, stream=True, max_tokens=3, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    *pieces, usage = chunks
    assert [chunk.choices[0].delta.content for chunk in pieces] == ["", "40x30 ", "what ", "is ", None]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * 4 + ["length"]
    assert usage.choices == [] and usage.usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.model for chunk in chunks} == {"echo"}
    with client.chat.completions.stream(model="echo", messages=messages) as stream:
        assert stream.get_final_completion().choices[0].message.content == "40x30 what is this? "


def test_a_stream_comes_while_it_is_made(client: openai.OpenAI, echo: EchoGenerator) -> None:
    echo.pause = 0.2
    with client.chat.completions.create(model="echo", messages=[user("1 2 3 4 5 6 7 8 9")], stream=True) as stream:
        next(stream)
        assert next(stream).choices[0].delta.content == "1 " and echo.tokens < 9


def test_the_example_of_the_documentation_runs(
    encoder: Encoder,
    echo: EchoGenerator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.M) if "chat." in block]
    (curl,) = re.findall(r"^curl localhost:8000(/v1/chat/completions) -d '(.*?)'$", page, re.DOTALL | re.M)
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    with served(create_app(encoder, ApiConfig(), chat=GenerationQueue("builtin-lang", lambda: echo))) as address:
        exec(code.replace("http://127.0.0.1:8000", address), {})
        body = curl[1].replace("data:image/jpeg;base64,…", RED)
        answer = httpx.post(
            address + curl[0], content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
    expected = "40x30 How many cups are on the table? "
    assert capsys.readouterr().out == f"{expected}\n{expected}"
    assert answer.json()["choices"][0]["message"]["content"] == "40x30 What is this? "


def test_an_unknown_model_and_none_are_404(client: openai.OpenAI, encoder: Encoder) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'") as caught:
        client.chat.completions.create(model="gpt-4o", messages=[user("a")])
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with served(create_app(encoder, ApiConfig())) as address:
        refused = httpx.post(f"{address}/v1/chat/completions", json={"model": "echo", "messages": [user("a")]})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == NO_MODEL


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("messages", "parameter", "message"),
    [
        ([user("a", "data:image/png;base64,aGVsbG8=")], "messages[0].content[1]", "messages[0].content[1]: data:"),
        ([user("a"), user(RED, "http://127.0.0.1:9/a.png")], "messages[1].content[1]", "--allow-urls"),
        ([user(TOO_LONG)], "messages", "does not fit the context of 10"),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request(
    client: openai.OpenAI, messages: list[dict], parameter: str, message: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=messages, stream=stream)
    assert caught.value.param == parameter and message in caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == ("context_length_exceeded" if message.startswith("does not") else None)
    assert client.chat.completions.create(model="echo", messages=[user("a")]).choices[0].message.content == "a "


def test_an_error_within_a_stream_is_its_last_event(encoder: Encoder) -> None:
    queue = GenerationQueue("echo", BreakingGenerator)
    with (
        served(create_app(encoder, ApiConfig(), chat=queue)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(model="echo", messages=[user("a")], stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a "]
        with pytest.raises(openai.APIError, match="the model broke"):
            next(stream)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_the_generation(
    client: openai.OpenAI, address: str, echo: EchoGenerator, stream: bool
) -> None:
    echo.pause = 0.05
    body = {"model": "echo", "messages": [user(ENDLESS)], "stream": stream, "max_tokens": 2000}
    if stream:
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
            next(response.iter_bytes())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=body, timeout=3.0)
    wait_until(lambda: not echo.running and httpx.get(f"{address}/health").json()["waiting"] == 0)
    assert 0 < echo.tokens < 200
    echo.pause = 0.0
    assert client.chat.completions.create(model="echo", messages=[user("a")]).choices[0].message.content == "a "


def test_conversations_are_answered_one_at_a_time_and_few_wait(address: str, echo: EchoGenerator) -> None:
    echo.pause = 0.1

    def post(question: str, timeout: float = 60) -> httpx.Response:
        body = {"model": "echo", "messages": [user(question)], "max_tokens": 20}
        return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=timeout)

    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(post, "1 2 3 4 5 6 7 8") for _ in range(3)]
        wait_until(lambda: httpx.get(f"{address}/health").json()["waiting"] == 3)
        refused = post("a")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert "3 conversations are waiting; the limit is 3" in refused.json()["error"]["message"]
        embedded = httpx.post(f"{address}/v1/embeddings", json={"input": "a cat"})
        assert embedded.status_code == 200 and echo.running == 1  # other requests do not wait for the answers
        assert [answer.result().status_code for answer in answers] == [200] * 3
    assert echo.most == 1


def test_a_model_that_cannot_be_loaded_is_tried_again(encoder: Encoder, echo: EchoGenerator) -> None:
    tries: list[str] = []

    def load() -> EchoGenerator:
        tries.append(threading.current_thread().name)
        if len(tries) == 1:
            raise WeightsUnavailableError("the weights are gone")
        return echo

    with served(create_app(encoder, ApiConfig(), chat=GenerationQueue("echo", load))) as address:
        assert tries == []
        body = {"messages": [user("a")]}
        failed = httpx.post(f"{address}/v1/chat/completions", json=body)
        assert failed.status_code == 500 and failed.json()["error"]["message"] == "the weights are gone"
        for _ in range(2):
            assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 200
    assert len(tries) == 2 and len(set(tries)) == 1


def test_a_language_model_answers_as_without_a_server(encoder: Encoder) -> None:
    model = tiny_language_model()
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    expected = model.generate([ask("what?", [image])], Sampling(max_tokens=12))[0]
    with (
        served(create_app(encoder, ApiConfig(), chat=GenerationQueue("tiny", lambda: model))) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        messages = [user(data_uri(image), "what?")]
        answer = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=12)
        assert answer.choices[0].message.content == expected.text
        assert answer.choices[0].finish_reason == ("stop" if expected.finished else "length")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
            expected.prompt_tokens,
            expected.tokens,
        )
        chunks = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
        with pytest.raises(openai.BadRequestError, match="in the context of 512") as caught:
            client.chat.completions.create(model="tiny", messages=[user("x" * 600)])
        assert caught.value.code == "context_length_exceeded"


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
        ({"messages": [{"role": "user"}]}, "messages", "the messages have no content; messages must be"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role", "one of system, developer, user"),
        ({"messages": [{"role": "developer", "content": [IMAGE]}]}, "messages[0]", "only the user's messages may"),
        (of_user({"type": "text", "text": "a"}, {"type": "input_audio"}), "messages[0].content[1]", "'input_audio'"),
        (of_user({"type": "image_url"}), "messages[0].content[0]", "an image_url {url}"),
        (of_user(IMAGE, IMAGE, IMAGE), "messages", "3 images or videos; a conversation takes at most 2"),
        ({"messages": [{"role": "user", "content": "x" * 1001}]}, "messages", "1,001 characters; the limit is 1,000"),
        ({"messages": HELLO, "n": 2}, "n", "n is 2; this server does not support it"),
        ({"messages": HELLO, "temperature": 3}, "temperature", "temperature is 3.0; it must be from 0 to 2"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens", "max_tokens is 0; it must be at least 1"),
        ({"messages": HELLO, "stop": ["a", ""]}, "stop", "none of them empty"),
        ({"messages": HELLO, "stop": 5}, "stop", "it must be a string, or a list of at most"),
        ({"messages": HELLO, "seed": 1 << 64}, "seed", "at most 64 bits"),
        ({"messages": HELLO, "stream": "yes"}, "stream", "stream is 'yes': Input should be a valid boolean"),
        ({"messages": HELLO, "top_k": 1}, "top_k", "top_k is 1; this server does not support it; it takes messages, "),
        (of_user({**IMAGE, "image_url": {"url": "data:image/png;base64,é"}}), "messages[0].content[0]", "base64"),
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


def test_values_that_change_nothing_are_accepted(chat: TestClient) -> None:
    extra = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "user": "someone",
        "n": 1,
        "top_k": None,
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
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]},
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
    _, first = check_chat(parse_chat(body), ApiConfig(), "echo")
    assert (first.stop, first.temperature, first.top_p, first.seed, first.max_tokens) == (("x",), 1, 0.5, -3, 9)
    assert not first.cut and first.presence_penalty == first.frequency_penalty == 0
    penalties = b'{"messages": [{"content": "a"}], "presence_penalty": 1, "frequency_penalty": -0.5}'
    _, penalised = check_chat(parse_chat(penalties), ApiConfig(), "echo")
    assert (penalised.presence_penalty, penalised.frequency_penalty) == (1, -0.5)
    both = b'{"messages": [{"content": "a"}], "max_tokens": 9, "max_completion_tokens": 5}'
    seeds = set()
    for _ in range(2):
        _, second = check_chat(parse_chat(both), ApiConfig(), "echo")
        seeds.add(second.seed)
    assert second.max_tokens == 5 and second.temperature == 0
    assert len(seeds) == 2, "without a seed, answers differ when they are drawn"
