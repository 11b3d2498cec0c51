"""OpenAI's client against servers that answer well, badly, late or in half."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
pytest.importorskip("fastapi", reason="fastapi is not installed; install the extra search")

from perception_encoder.errors import EndpointError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.language_models.endpoint import EndpointModel
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import GenerationQueue
from perception_encoder.serving.requests import ApiConfig
from tests.inference.conftest import encoder
from tests.serving.servers import served
from tests.tiny_language_models import tiny_language_model
from tests.video_data_engine import servers

__all__ = ["encoder"]

EVENTS = "text/event-stream"
RED = Image.new("RGB", (32, 16), "red")


def model(address: str, timeout: float = 20.0) -> EndpointModel:
    return EndpointModel(address, "captioner", timeout)


def test_an_answer_about_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    video = VideoFrames([RED, RED], [0.0, 1.0], 2.0, 50, True)
    with servers.endpoint(servers.well) as (address, requests):
        conversation = [Message("system", ("Be brief.",)), *ask("what is это?", [video])]
        (reply,) = model(address).generate([conversation], Sampling(max_tokens=9))
    assert (reply.text, reply.finished) == ("2 images: WHAT IS ЭТО?", True)
    (request,) = requests
    assert (request["path"], request["key"]) == ("/v1/chat/completions", "Bearer secret")
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("captioner", 9, 0)
    system, question = request["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    data = question["content"][0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 16)


@pytest.mark.parametrize(("reason", "finished"), [("stop", True), (None, True), ("length", False)])
def test_an_endpoint_that_does_not_stream(reason: str | None, finished: bool) -> None:
    kind = "application/json; charset=utf-8" if finished else "application/json"
    with servers.endpoint(servers.whole("eine Tasse", reason, kind)) as (address, requests):
        assert list(model(address).generate_stream(ask("what?"))) == ["eine Tasse"]
        (reply,) = model(address).generate([ask("what?")])
    assert (reply.text, reply.finished, reply.prompt_tokens, reply.tokens) == ("eine Tasse", finished, 7, 3)
    assert requests[0]["stream"]


def test_a_streamed_answer_that_its_length_ended_is_unfinished() -> None:
    limited = [lambda handler, _: servers.stream(handler, servers.chunk("a cup"), servers.chunk(reason="length"))]
    with servers.endpoint(*limited) as (address, _):
        (reply,) = model(address).generate([ask("what?")])
    assert (reply.text, reply.finished) == ("a cup", False)


@pytest.mark.parametrize(
    ("answer", "reason", "scope"),
    [
        (servers.failing(500), "answered with an error: Error code: 500", "attempt"),
        (servers.failing(429), "answered with an error: Error code: 429", "attempt"),
        (servers.failing(400, "too long"), "Error code: 400.*too long", "request"),
        (servers.failing(401), "Error code: 401", "service"),
        (servers.failing(404, "no such model"), "no such model", "service"),
        (servers.half, "truncated its answer", "attempt"),
        (servers.cut, "failed or sent an invalid answer", "attempt"),
        (servers.garbage, "failed or sent an invalid answer", "attempt"),
        (servers.other, "failed or sent an invalid answer", "attempt"),
        (servers.page, "sent an invalid answer: it is text/html, not an answer", "attempt"),
        (servers.dripping("application/json", b" "), "took longer than 0.5 s", "attempt"),
        (servers.whole(["a cup"]), "failed or sent an invalid answer", "attempt"),
        (servers.empty, r"answered without a word \(stop\)", "answer"),
        (servers.whole(None, "content_filter"), r"answered without a word \(content_filter\)", "answer"),
        (servers.mute, "did not answer within 0.5 s", "attempt"),
        (servers.odd, "failed or sent an invalid answer", "attempt"),
        (servers.dripping(EVENTS, servers.chunk("a ")), "took longer than 0.5 s", "attempt"),
        (servers.dripping(EVENTS, b"x"), "took longer than 0.5 s", "attempt"),
        (servers.dripping(EVENTS, b"x", status=500), "took longer than 0.5 s", "attempt"),
        (servers.compressed(200), "content-encoding gzip, which was not asked for", "attempt"),
        (servers.compressed(500), "content-encoding gzip, which was not asked for", "attempt"),
    ],
)
def test_what_goes_wrong(answer: servers.Answer, reason: str, scope: str) -> None:
    with servers.endpoint(answer) as (address, requests), pytest.raises(EndpointError, match=reason) as failure:
        model(address, 0.5).generate([ask("what?")])
    assert failure.value.scope == scope and len(requests) == 1


@pytest.mark.parametrize(
    ("kind", "status"), [("application/json", 200), ("text/event-stream", 200), ("text/plain", 500)]
)
def test_an_answer_has_a_limit(kind: str, status: int) -> None:
    with (
        servers.endpoint(servers.huge(kind, status)) as (address, _),
        pytest.raises(EndpointError, match="it has more than 16777216 bytes"),
    ):
        model(address).generate([ask("what?")])


def test_a_server_says_when_to_come_back() -> None:
    with (
        servers.endpoint(servers.failing(503, Retry_After="2")) as (address, _),
        pytest.raises(EndpointError) as failure,
    ):
        model(address).generate([ask("what?")])
    assert failure.value.wait == 2


def test_nobody_listens() -> None:
    with servers.endpoint(servers.well) as (address, _):
        pass
    with pytest.raises(EndpointError, match="failed or sent an invalid answer"):
        model(address).generate([ask("what?")])


def test_our_own_server_answers(encoder: Encoder) -> None:
    local_model = tiny_language_model()
    queue = GenerationQueue("tiny", lambda: local_model, source="tiny", limit=3)
    sampling = Sampling(max_tokens=12)
    with served(create_app(encoder, ApiConfig(), chat=queue)) as address:
        other = EndpointModel(f"{address}/v1", "tiny")
        (reply,) = other.generate([ask("what is red?")], sampling)
        (sighted,) = other.generate([ask("what?", [RED])], sampling)
    (expected,) = local_model.generate([ask("what is red?")], sampling)
    assert (reply.text, reply.finished) == (expected.text, expected.finished) and sighted.text
