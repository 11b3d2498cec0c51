"""Stages in this process: what they ask a model, its attempts, and what they make of its answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perception_encoder.conversation import assistant as assistants
from perception_encoder.conversation.assistant import answer_all
from perception_encoder.errors import ConfigError, EndpointError
from perception_encoder.formats.listing import Item
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.video_data_engine.config import EngineConfig, WorkConfig
from perception_encoder.video_data_engine.journal import ClipRecord, StageFailure, StageResult
from perception_encoder.video_data_engine.stages import EngineStage, Models, make_stages
from perception_encoder.video_data_engine.videos import list_videos
from tests.video_data_engine import servers
from tests.video_data_engine.conftest import ECHOES, QUICK


def through(stages: list[EngineStage], record: ClipRecord) -> ClipRecord | StageFailure:
    models: Models = {}
    for stage in stages:
        handle, _ = stage.open(models)
        (outcome,) = handle([record])
        if not isinstance(outcome, StageResult):
            return outcome
        (record,) = record.after(outcome)
    return record


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ('"A cup falls."', "A cup falls."),
        ("'It's a cup.'", "It's a cup."),
        ('"STOP" is on a sign beside the road.', '"STOP" is on a sign beside the road.'),
        ('"STOP" is on one sign, and on the other "GO"', '"STOP" is on one sign, and on the other "GO"'),
        ("'80s cars in a row, one of them 'new'", "'80s cars in a row, one of them 'new'"),
        ('A cup\n with a 6"', 'A cup with a 6"'),
        ('"', '"'),
    ],
)
def test_only_quotes_around_a_whole_caption_go(answer: str, caption: str) -> None:
    (stage,) = (stage for stage in make_stages(ECHOES, QUICK) if stage.name == "summary")
    record = ClipRecord(key="a", item=Item("a", "a"))
    assert stage._outcome(record, [Reply(answer, 1, 1, True)], 0.0).value["text"] == caption


@pytest.fixture
def record(add_video, tmp_path: Path) -> ClipRecord:
    pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
    add_video("a", description="Чашка на столе")
    return next(list_videos([tmp_path / "videos"]))


def test_every_model_behind_an_endpoint(record: ClipRecord) -> None:
    with servers.endpoint(servers.failing(500), servers.half, servers.well) as (address, requests):
        name = f"{address}#any"
        config = EngineConfig(captioner=name, frame_captioner=name, llm=name, frames=4, captioned_frames=2)
        after = through(make_stages(config, WorkConfig(pause=0.0)), record)
    assert isinstance(after, ClipRecord)
    assert after.results["video_caption"]["text"].startswith("4 images: DESCRIBE THIS VIDEO")
    assert len(after.results["frame_captions"]["captions"]) == 2
    assert "ЧАШКА НА СТОЛЕ" in after.results["summary"]["text"] and len(requests) == 6


def test_a_letter_in_two_pieces_is_joined(record: ClipRecord) -> None:
    pieces = (servers.chunk("चाय \ud83c"), servers.chunk("\udf75 \ud83c"), servers.chunk(reason="stop"))
    with servers.endpoint(lambda handler, _: servers.stream(handler, *pieces)) as (address, _):
        after = through(make_stages(replace(ECHOES, llm=f"{address}#any"), QUICK), record)
    assert isinstance(after, ClipRecord) and after.results["summary"]["text"] == "चाय 🍵 \ufffd"


def test_an_endpoint_that_stays_down_is_a_failure_of_the_service(record: ClipRecord) -> None:
    for answer, cause in ((servers.failing(503), "service"), (servers.failing(413), "model")):
        with servers.endpoint(answer) as (address, requests):
            config = EngineConfig(captioner=f"{address}#any")
            failure = through(make_stages(config, WorkConfig(pause=0.0, tries=2)), record)
        assert isinstance(failure, StageFailure) and (failure.stage, failure.cause) == ("video_caption", cause)
        assert len(requests) == (2 if cause == "service" else 1)


class Fickle:
    """A `Generator` that fails as often as a text says: "2" fails twice, "wide" always; it notes its batches."""

    name = "fickle"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        texts = [str(conversation[0].content[0]) for conversation in conversations]
        self.batches.append(texts)
        for text in texts:
            if text == "wide":
                raise ConfigError("does not fit")
            if text == "refused":
                raise EndpointError("refused", "request")
            if text == "key":
                raise EndpointError("wrong key", "service")
            if text.isdigit() and sum(text in batch for batch in self.batches) <= int(text):
                raise EndpointError("busy", wait=30.0)
        return [Reply(f"<{text}>", 1, 1, True) for text in texts]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited between attempts."""
    seconds: list[float] = []
    monkeypatch.setattr(assistants, "time", SimpleNamespace(sleep=seconds.append))  # not of other threads
    return seconds


def texts(replies: Sequence[object]) -> list[str]:
    return [reply.text if isinstance(reply, Reply) else str(reply) for reply in replies]


def conversations(*words: str) -> list[list[Message]]:
    return [ask(word) for word in words]


def test_a_model_gets_all_together_and_one_by_one_if_that_fails() -> None:
    model = Fickle()
    assert texts(answer_all(model, conversations("a", "b"), Sampling())) == ["<a>", "<b>"]
    replies = answer_all(model, conversations("a", "wide", "refused", "b"), Sampling())
    assert texts(replies) == ["<a>", "does not fit", "refused", "<b>"]
    assert [len(batch) for batch in model.batches] == [2, 4, 1, 1, 1, 1]


def test_passing_failures_are_tried_again_after_pauses(pauses: list[float]) -> None:
    model = Fickle()
    replies = answer_all(model, conversations("1", "9"), Sampling(), tries=3, pause=2.0, threads=2)
    assert texts(replies) == ["<1>", "busy"]
    assert pauses == [30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("wait", "pause", "expected"),
    [(None, 2.0, [2.0, 4.0, 8.0]), (3600.0, 45.0, [60.0] * 3), (None, 45.0, [45.0, 60.0, 60.0])],
)
def test_pauses_double_up_to_a_minute(
    pauses: list[float], wait: float | None, pause: float, expected: list[float]
) -> None:
    class Busy(Fickle):
        def generate(self, *arguments: object) -> list[Reply]:
            raise EndpointError("busy", wait=wait)

    answer_all(Busy(), conversations("a"), Sampling(), tries=4, pause=pause)
    assert pauses == expected


def test_requests_are_sent_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=20)

    class Meeting(Fickle):
        def generate(self, *arguments: Any) -> list[Reply]:
            together.wait()
            return super().generate(*arguments)

    words = conversations("a", "b", "c")
    assert texts(answer_all(Meeting(), words, Sampling(), threads=3)) == ["<a>", "<b>", "<c>"]


def test_a_wrong_key_ends_everything() -> None:
    for threads in (1, 2):
        with pytest.raises(EndpointError, match="wrong key"):
            answer_all(Fickle(), conversations("a", "key"), Sampling(), threads=threads)
