"""A language model and the conversations that wait for it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from perception_encoder.errors import MediaTooLargeError
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.conversation import Reply, Sampling, ask
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.generation import GenerationQueue
from tests.serving.generators import ENDLESS, EchoGenerator


def test_pieces_come_before_the_whole() -> None:
    async def collect() -> list[str | Reply]:
        queue = GenerationQueue("echo", EchoGenerator)
        return [piece async for piece in queue.stream(lambda: ask("a b"), Sampling())]

    *pieces, reply = asyncio.run(collect())
    assert pieces == ["a ", "b "] and isinstance(reply, Reply) and reply.text == "a b "


def test_a_closed_stream_ends_the_generation_and_a_waiting_one_never_begins() -> None:
    echo = EchoGenerator(pause=0.01)
    endless = Sampling(max_tokens=100_000)

    async def run() -> None:
        queue = GenerationQueue("echo", lambda: echo)
        async with aclosing(queue.stream(lambda: ask(ENDLESS), endless)) as stream:
            assert await anext(stream) == "0 "
            waiting = asyncio.ensure_future(anext(queue.stream(lambda: ask("never asked"), Sampling())))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        pieces = [piece async for piece in queue.stream(lambda: ask("a"), Sampling())]
        assert pieces[0] == "a "

    asyncio.run(run())
    assert echo.tokens < 1000 and [each[0].content for each in echo.conversations] == [(ENDLESS,), ("a",)]


def test_conversations_and_their_media_are_limited_together() -> None:
    queue = GenerationQueue("echo", EchoGenerator, limit=2, media_bytes=1000)
    with queue.reserve() as first:
        first(300, MAX_PIXELS - 10)
        with pytest.raises(MediaTooLargeError, match="have more than 178,956,970 pixels together, the limit"):
            first(300, 11)
        with queue.reserve() as second:
            second(700, 10)
            with pytest.raises(QueueFullError, match="the images and videos of 2 conversations fill the memory"):
                second(1, 10)
            with pytest.raises(QueueFullError, match="2 conversations wait already; the limit is 2"), queue.reserve():
                pass
    with queue.reserve() as third:
        for _ in range(4):
            third(250, MAX_PIXELS // 4)
