"""Requests of many clients into batches: what waits is encoded together, in one thread, in the order it came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Media
from perception_encoder.inference.pipeline import Embedding, Request, Result, encode_requests

_READERS = 8  # threads that fetch and unpack inputs
Waiting = tuple[Media, "asyncio.Future[np.ndarray]"]


class QueueFullError(Exception):
    """Too much waits already."""


class Batcher:
    """Encodes what `encode` is given; `run` must be running beside. All its methods belong to one event loop.

    `limit`: how much may wait, in inputs, those included that are still being read. `largest`: inputs of a batch.
    `patience`: seconds that a batch waits for more. `watch` is told the size of each batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        limit: int = 1024,
        largest: int = 64,
        patience: float = 0.004,
        watch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._encoder, self._limit, self._largest = encoder, limit, largest
        self._patience, self._watch = patience, watch
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._model = ThreadPoolExecutor(1, "batch")
        self.reserved = 0
        """Inputs that are being read, wait, or are being encoded."""

    @contextmanager
    def reserve(self, inputs: int) -> Iterator[None]:
        """Keep places for some inputs until the block ends; QueueFullError where there are none."""
        if self.reserved + inputs > self._limit:
            raise QueueFullError(f"{self.reserved} inputs wait already")
        self.reserved += inputs
        try:
            yield
        finally:
            self.reserved -= inputs

    async def read(self, work: Callable[[], Media]) -> Media:
        """Read one input, a few at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def encode(self, inputs: Sequence[Media]) -> Float[np.ndarray, "n D"]:
        """Unit vectors, in order; raises the InputError of the first bad input. Call it under `reserve`."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in inputs]
        self._waiting.extend(zip(inputs, futures, strict=True))
        self._arrived.set()
        try:
            return np.stack(await asyncio.gather(*futures))
        finally:
            for future in futures:  # of a client that has gone, or beside a bad input
                future.cancel()

    async def run(self) -> None:
        """Encode what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._largest:
                await asyncio.sleep(self._patience)
            self._arrived.clear()
            while batch := self._next_batch():
                self._watch(len(batch))
                inputs = [media for media, _ in batch]
                try:
                    results = await asyncio.get_running_loop().run_in_executor(self._model, self._encode, inputs)
                except Exception as error:  # the model's own: these requests fail, the next are tried
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():
                        continue
                    if isinstance(result, Embedding):
                        future.set_result(result.vector)
                    else:
                        future.set_exception(result.error)

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._waiting and len(batch) < self._largest:
            media, future = self._waiting.popleft()
            if not future.done():  # its client may have gone
                batch.append((media, future))
        return batch

    def _encode(self, inputs: list[Media]) -> list[Result[int]]:
        requests = [Request.of(number, media) for number, media in enumerate(inputs)]
        batches = encode_requests(self._encoder, requests, self._encoder.feature())
        return sorted((result for batch in batches for result in batch), key=lambda result: result.key)
