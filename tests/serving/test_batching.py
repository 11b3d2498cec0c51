"""Requests that wait are encoded together, within limits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fastapi.testclient import TestClient

from perception_encoder.errors import InputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Media
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.serving.api import create_app
from perception_encoder.serving.batching import Batcher, QueueFullError
from perception_encoder.serving.requests import ApiConfig


def test_requests_together_are_encoded_together(encoder: Encoder) -> None:
    texts = [f"picture {number}" for number in range(40)]
    sizes: list[int] = []

    async def ask() -> list[np.ndarray]:
        batcher = Batcher(encoder, largest=16, patience=0.02, watch=sizes.append)
        worker = asyncio.create_task(batcher.run())
        try:
            with batcher.reserve(len(texts)):
                return await asyncio.gather(*(batcher.encode([Decoded(text=text)]) for text in texts))
        finally:
            worker.cancel()

    found = np.concatenate(asyncio.run(ask()))
    np.testing.assert_allclose(found, encoder.encode_texts(texts), atol=1e-5)
    assert sum(sizes) == 40 and max(sizes) == 16 and len(sizes) <= 5


def test_too_much_that_waits_is_refused_and_a_bad_input_harms_no_other(encoder: Encoder) -> None:
    good, bad = Decoded(text="a cat"), Media("image", "bad", b"\xff\xd8\xff")

    async def ask() -> None:
        batcher = Batcher(encoder, limit=3, patience=0.0)
        worker = asyncio.create_task(batcher.run())
        with batcher.reserve(3):
            with pytest.raises(QueueFullError, match="3 inputs wait"), batcher.reserve(1):
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
