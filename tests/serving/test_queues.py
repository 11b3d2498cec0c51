"""Inputs and conversations that wait: batches, order and limits."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress

import numpy as np
import pytest
from fastapi.testclient import TestClient

from perception_encoder.errors import InputError, MediaTooLargeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import Decoded, Feature
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.media import Media
from perception_encoder.serving.api import create_app
from perception_encoder.serving.queues import Batcher, GenerationQueue, QueueFullError
from perception_encoder.serving.requests import ApiConfig
from tests.serving.generators import ENDLESS, EchoGenerator


def test_a_batch_waits_only_for_inputs_that_are_being_read(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience for half a minute: a lone input waits for nothing, and others until what is read is there."""
    sizes: list[int] = []

    def encode(encoder: Encoder, inputs: list[Decoded], feature: Feature) -> list[np.ndarray]:
        sizes.append(len(inputs))
        time.sleep(0.05)
        return [np.zeros(2, np.float32)] * len(inputs)

    async def send(batcher: Batcher, reads: float, fails: bool = False) -> None:
        with suppress(ValueError), batcher.reserve(1):
            await asyncio.sleep(reads)
            if fails:
                raise ValueError
            await batcher.encode([Decoded(text="a cat")])

    async def ask_all() -> None:
        batcher = Batcher(encoder, patience=30)
        worker = asyncio.create_task(batcher.run())
        try:
            await send(batcher, 0)
            await asyncio.gather(send(batcher, 0), send(batcher, 0.02))  # together
            await asyncio.gather(send(batcher, 0), send(batcher, 0.02, fails=True))
            encoded = asyncio.create_task(send(batcher, 0))
            while len(sizes) < 4:
                await asyncio.sleep(0.001)
            await asyncio.gather(encoded, send(batcher, 0))  # arrives while the other is encoded
            await send(batcher, 0)
        finally:
            worker.cancel()

    monkeypatch.setattr(Encoder, "encode_decoded", encode)
    asyncio.run(asyncio.wait_for(ask_all(), 20))
    assert sizes == [1, 2, 1, 1, 1, 1]


def test_a_batch_is_of_one_feature(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of two features in turn make two batches, each in order."""
    encode = Encoder.encode_decoded
    pixels = [np.full((3, 128, 128), 20 * number, np.uint8) for number in range(12)]
    features = encoder.feature(), encoder.feature(layer=1)
    sizes: list[tuple[int, int]] = []

    def counted(encoder: Encoder, inputs: list[Decoded], feature: Feature) -> list[np.ndarray]:
        sizes.append((feature.layer, len(inputs)))
        return encode(encoder, inputs, feature)

    async def ask() -> list[np.ndarray]:
        monkeypatch.setattr(Encoder, "encode_decoded", counted)
        batcher = Batcher(encoder, patience=0.02)
        worker = asyncio.create_task(batcher.run())
        waiting = [
            batcher.encode([Decoded(pixels=(image,))], [features[number % 2]]) for number, image in enumerate(pixels)
        ]
        try:
            return await asyncio.gather(*waiting)
        finally:
            worker.cancel()

    found = asyncio.run(ask())
    for number, vector in enumerate(found):
        expected = encoder.embed_pixels(pixels[number][None], features[number % 2])
        np.testing.assert_allclose(vector, expected, atol=1e-4)
    assert sizes == [(features[0].layer, 6), (1, 6)]


def test_too_much_that_waits_is_refused_and_a_bad_input_harms_no_other(encoder: Encoder) -> None:
    good, bad = Decoded(text="a cat"), Media("image", "bad", b"\xff\xd8\xff")

    async def ask() -> None:
        batcher = Batcher(encoder, limit=3, patience=0.0)
        worker = asyncio.create_task(batcher.run())
        with batcher.reserve(3):
            with pytest.raises(QueueFullError, match="3 inputs are waiting"), batcher.reserve(1):
                pass
            first = asyncio.create_task(batcher.encode([good, good]))
            with pytest.raises(InputError, match="bad"):
                batcher.decode(bad)
            assert (await first).shape == (2, 256)
        with batcher.reserve(3):
            assert (await batcher.encode([good])).shape == (1, 256)
        worker.cancel()

    asyncio.run(ask())
    with TestClient(create_app(encoder, ApiConfig(waiting=1)), base_url="http://localhost") as client:
        response = client.post("/v1/embeddings", json={"input": ["a", "b"]})
        assert response.status_code == 429 and response.headers["retry-after"] == "1"


def test_the_memory_of_waiting_images_is_bounded(encoder: Encoder) -> None:
    """A model of sentence-transformers gets whole images."""
    image = Decoded(pixels=({"image": np.zeros((1000, 1000, 3), np.uint8)},))

    async def ask() -> None:
        batcher = Batcher(encoder, pixel_bytes=8_000_000)
        with batcher.reserve(2) as hold:
            assert hold(image) is image and image.bytes == 3_000_000
            hold(image)
            with pytest.raises(MediaTooLargeError, match="need more than 7 MiB"):
                hold(image)
            with batcher.reserve(1) as other, pytest.raises(QueueFullError, match="3 inputs fill the memory"):
                other(image)
        with batcher.reserve(1) as other:
            other(image)

    asyncio.run(ask())


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
    assert echo.tokens < 1000 and [conversation[0].content for conversation in echo.conversations] == [
        (ENDLESS,),
        ("a",),
    ]


def test_a_stream_that_nobody_reads_lets_the_next_conversation_begin() -> None:
    async def run() -> list[object]:
        queue = GenerationQueue("echo", EchoGenerator)
        async with aclosing(queue.stream(lambda: ask("1 2 3 4"), Sampling())) as stalled:
            assert await anext(stalled) == "1 "
            async with asyncio.timeout(10):
                return [piece async for piece in queue.stream(lambda: ask("a"), Sampling())]

    assert asyncio.run(run())[0] == "a "


def test_conversations_and_their_media_are_limited_together() -> None:
    queue = GenerationQueue("echo", EchoGenerator, limit=2, media_bytes=1000)
    with queue.reserve() as first:
        first(300, MAX_PIXELS - 10)
        with pytest.raises(MediaTooLargeError, match="178,956,970 pixels"):
            first(300, 11)
        with queue.reserve() as second:
            second(700, 10)
            with pytest.raises(QueueFullError, match="of 2 conversations fill the memory"):
                second(1, 10)
            with pytest.raises(QueueFullError, match="2 conversations are waiting"), queue.reserve():
                pass
    with queue.reserve() as third:
        for _ in range(4):
            third(250, MAX_PIXELS // 4)
