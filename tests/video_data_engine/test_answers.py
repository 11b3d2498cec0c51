"""Attempts at a model: together, alone, in threads, and with failures in their positions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from perception_encoder.errors import ConfigError, EndpointError
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.video_data_engine import answers
from perception_encoder.video_data_engine.answers import Attempts, answer_each


class Fickle:
    """Fails as often as a text says: "2" fails twice, "wide" always; it notes its batches."""

    name = "fickle"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        texts = [str(each[0].content[0]) for each in conversations]
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
    monkeypatch.setattr(answers.time, "sleep", seconds.append)
    return seconds


def texts(replies: Sequence[object]) -> list[str]:
    return [reply.text if isinstance(reply, Reply) else str(reply) for reply in replies]


def conversations(*words: str) -> list[list[Message]]:
    return [ask(word) for word in words]


def test_a_model_gets_all_together_and_one_by_one_if_that_fails() -> None:
    model = Fickle()
    assert texts(answer_each(model, conversations("a", "b"), Sampling(), Attempts())) == ["<a>", "<b>"]
    replies = answer_each(model, conversations("a", "wide", "refused", "b"), Sampling(), Attempts())
    assert texts(replies) == ["<a>", "does not fit", "refused", "<b>"]
    assert [len(batch) for batch in model.batches] == [2, 4, 1, 1, 1, 1]


def test_passing_failures_are_tried_again_after_pauses(pauses: list[float]) -> None:
    model = Fickle()
    replies = answer_each(model, conversations("1", "9"), Sampling(), Attempts(tries=3, pause=2.0), threads=2)
    assert texts(replies) == ["<1>", "busy"]
    assert pauses == [30.0, 30.0, 30.0]
    plain = EndpointError("busy")

    class Busy(Fickle):
        def generate(self, *arguments: object) -> list[Reply]:
            raise plain

    pauses.clear()
    answer_each(Busy(), conversations("a"), Sampling(), Attempts(tries=4, pause=2.0))
    assert pauses == [2.0, 4.0, 8.0]


def test_a_pause_is_a_minute_at_most(pauses: list[float]) -> None:
    for wait in (3600.0, None):

        class Busy(Fickle):
            def generate(self, *arguments: object) -> list[Reply]:
                raise EndpointError("busy", wait=wait)  # noqa: B023 (called at once)

        answer_each(Busy(), conversations("a"), Sampling(), Attempts(tries=3, pause=45.0))
    assert pauses == [60.0, 60.0, 45.0, 60.0]


def test_requests_are_sent_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=20)

    class Meeting(Fickle):
        def generate(self, *arguments: Any) -> list[Reply]:
            together.wait()
            return super().generate(*arguments)

    words = conversations("a", "b", "c")
    assert texts(answer_each(Meeting(), words, Sampling(), Attempts(), threads=3)) == ["<a>", "<b>", "<c>"]


def test_a_wrong_key_ends_everything() -> None:
    for threads in (1, 2):
        with pytest.raises(EndpointError, match="wrong key"):
            answer_each(Fickle(), conversations("a", "key"), Sampling(), Attempts(), threads)


def test_an_answer_without_a_word_is_a_failure() -> None:
    replies = answer_each(Fickle(), conversations("…", "да"), Sampling(), Attempts())
    assert texts(replies) == ["the model answered without a word", "<да>"]
