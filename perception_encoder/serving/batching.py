"""Batch the requests of many clients: waiting inputs are encoded together, in one thread, in their order."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Media
from perception_encoder.inference.pipeline import Decoded, decode, encode_decoded

Waiting = tuple[Decoded, "asyncio.Future[np.ndarray]"]


class QueueFullError(Exception):
    """Too many inputs wait already."""


def quiet(encoder: Encoder) -> Encoder:
    """Return the encoder with a tokenizer that does not warn of long texts: a warning would log them."""
    encoder = copy.copy(encoder)
    if encoder.tokenizer is not None:
        encoder.tokenizer = replace(encoder.tokenizer, warns=False)
    return encoder


class Batcher:
    """Encodes inputs in batches while `run` is running; all its methods belong to one event loop.

    `limit`: inputs that may wait, including those that are still being read. `largest`: inputs of a batch. `patience`:
    seconds that a batch waits for more. `watch` gets the size of each batch. The model runs in one thread,
    `model_thread` if given: torch and the C library keep memory for each thread that computes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        limit: int = 4096,
        largest: int = 64,
        patience: float = 0.004,
        watch: Callable[[int], object] = lambda size: None,
        model_thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self.largest = largest
        self._encoder, self._limit, self._patience, self._watch = encoder, limit, patience, watch
        self._feature = encoder.feature()
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._model = model_thread or ThreadPoolExecutor(1, "model")
        self.reserved = 0
        """Inputs that are read, wait, or are encoded."""

    @contextmanager
    def reserve(self, inputs: int) -> Iterator[None]:
        """Reserve room for inputs until the block ends; raises QueueFullError."""
        if self.reserved + inputs > self._limit:
            raise QueueFullError(f"{self.reserved} inputs wait already; the limit is {self._limit}")
        self.reserved += inputs
        try:
            yield
        finally:
            self.reserved -= inputs

    def decode(self, media: Media) -> Decoded:
        """Decode an image or video and resize it, in any thread; raises InputError."""
        return decode(self._encoder, media, self._feature)

    async def encode(self, inputs: Sequence[Decoded]) -> Float[np.ndarray, "n D"]:
        """Return unit vectors, in order; call it under `reserve`."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in inputs]
        self._waiting.extend(zip(inputs, futures, strict=True))
        self._arrived.set()
        try:
            return np.stack(await asyncio.gather(*futures))
        finally:
            for future in futures:  # of a client that disconnected
                future.cancel()

    async def run(self) -> None:
        """Encode arriving inputs until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self.largest:
                await asyncio.sleep(self._patience)
            self._arrived.clear()
            while batch := self._next_batch():
                self._watch(len(batch))
                inputs = [decoded for decoded, _ in batch]
                try:
                    vectors = await asyncio.get_running_loop().run_in_executor(self._model, self._encode, inputs)
                except Exception as error:  # of the model: these requests fail, the next are tried
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), vector in zip(batch, vectors, strict=True):
                    if not future.done():
                        future.set_result(vector)

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self.largest:
            decoded, future = self._waiting.popleft()
            if not future.done():  # its client may have disconnected
                batch.append((decoded, future))
        return batch

    def warm_up(self) -> None:
        """Encode a text in advance: the first one takes ten times as long."""
        if self._encoder.tokenizer is not None:
            self._model.submit(self._encode, [Decoded(text="a")])

    def _encode(self, inputs: list[Decoded]) -> list[np.ndarray]:
        return encode_decoded(self._encoder, inputs, self._feature)
