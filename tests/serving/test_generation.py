"""A language model and the conversations that wait for it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from PIL import Image

from perception_encoder.errors import MediaTooLargeError
from perception_encoder.preprocess.conversation import Reply, Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.generation import GenerationQueue, decoded_bytes
from tests.serving.generators import ENDLESS, EchoGenerator

IMAGE = Image.new("RGB", (10, 10))


def test_pieces_come_before_the_whole() -> None:
    async def collect() -> list[str | Reply]:
        queue = GenerationQueue("echo", EchoGenerator)
        return [piece async for piece in queue.stream(ask("a b"), Sampling())]

    *pieces, reply = asyncio.run(collect())
    assert pieces == ["a ", "b "] and isinstance(reply, Reply) and reply.text == "a b "


def test_a_closed_stream_ends_the_generation_and_a_waiting_one_never_begins() -> None:
    echo = EchoGenerator(pause=0.01)
    endless = Sampling(max_tokens=100_000)

    async def run() -> None:
        queue = GenerationQueue("echo", lambda: echo)
        async with aclosing(queue.stream(ask(ENDLESS), endless)) as stream:
            assert await anext(stream) == "0 "
            waiting = asyncio.ensure_future(anext(queue.stream(ask("never asked"), Sampling())))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        pieces = [piece async for piece in queue.stream(ask("a"), Sampling())]
        assert pieces[0] == "a "

    asyncio.run(run())
    assert echo.tokens < 1000 and [each[0].content for each in echo.conversations] == [(ENDLESS,), ("a",)]


def test_conversations_and_their_media_are_limited_together() -> None:
    queue = GenerationQueue("echo", EchoGenerator, limit=2, media_bytes=1000)
    with queue.reserve() as first:
        assert first(IMAGE) is IMAGE
        with pytest.raises(MediaTooLargeError, match="take more than 1,000 bytes decoded, the limit"):
            first(Image.new("RGB", (20, 20)))
        with queue.reserve() as second:
            first(IMAGE)
            second(IMAGE)
            with pytest.raises(QueueFullError, match="the images and videos of 2 conversations fill the memory"):
                second(IMAGE)
            with pytest.raises(QueueFullError, match="2 conversations wait already; the limit is 2"), queue.reserve():
                pass
        first(IMAGE)
    with queue.reserve() as third:
        for _ in range(3):
            third(IMAGE)


def test_frames_of_a_video_count() -> None:
    video = VideoFrames([IMAGE, IMAGE], [0.0, 1.0], 2.0, 2, complete=True)
    assert decoded_bytes(video) == 2 * decoded_bytes(IMAGE) == 600
