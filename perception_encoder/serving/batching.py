"""Requests of many clients into batches: what waits is encoded together, in one thread, in the order it came."""

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
from perception_encoder.preprocess.budget import ByteBudget

_FETCHERS, _DECODERS = 16, 2  # threads: of URLs, which take seconds, and of images, which take a core
_DECODING_BYTES = 256 << 20  # of images that are decoded at the same time; a larger one is decoded alone
Waiting = tuple[Decoded, "asyncio.Future[np.ndarray]"]


class QueueFullError(Exception):
    """Too much waits already."""


def quiet(encoder: Encoder) -> Encoder:
    """The same encoder, whose tokenizer does not warn of long texts: a warning would write them to the log."""
    encoder = copy.copy(encoder)
    if encoder.tokenizer is not None:
        encoder.tokenizer = replace(encoder.tokenizer, warns=False)
    return encoder


class Batcher:
    """Encodes what `encode` is given; `run` must be running beside. All its methods belong to one event loop.

    `limit`: how much may wait, in inputs, those included that are still being read. `largest`: inputs of a batch.
    `patience`: seconds that a batch waits for more. `watch` is told the size of each batch.

    The model runs in one thread, `model_thread` if given: torch and the C library keep memory for each that computes.
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
        self._feature, self._budget = encoder.feature(), ByteBudget(_DECODING_BYTES)
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
        self._fetching = asyncio.Semaphore(_FETCHERS)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self._model = model_thread or ThreadPoolExecutor(1, "model")
        self.reserved = 0
        """Inputs that are being read, wait, or are being encoded."""

    @contextmanager
    def reserve(self, inputs: int) -> Iterator[None]:
        """Keep places for some inputs until the block ends; QueueFullError where there are none."""
        if self.reserved + inputs > self._limit:
            raise QueueFullError(f"{self.reserved} inputs wait already, and at most {self._limit} may")
        self.reserved += inputs
        try:
            yield
        finally:
            self.reserved -= inputs

    async def fetch(self, work: Callable[[], bytes], resolve: Callable[[bytes], Media]) -> Decoded:
        """Download an image or video in a thread for that alone, then `decode` it."""
        async with self._fetching:  # until it is decoded: so many downloads are in memory at most
            content = await asyncio.get_running_loop().run_in_executor(self._fetchers, work)
            return await self.decode(lambda: resolve(content))

    async def decode(self, resolve: Callable[[], Media]) -> Decoded:
        """Decode one input; raises the InputError of a bad one."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, resolve)

    def _decode(self, resolve: Callable[[], Media]) -> Decoded:
        return decode(self._encoder, resolve(), self._feature, self._budget)

    async def encode(self, inputs: Sequence[Decoded]) -> Float[np.ndarray, "n D"]:
        """Unit vectors, in order. Call it under `reserve`."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in inputs]
        self._waiting.extend(zip(inputs, futures, strict=True))
        self._arrived.set()
        try:
            return np.stack(await asyncio.gather(*futures))
        finally:
            for future in futures:  # of a client that has gone
                future.cancel()

    async def run(self) -> None:
        """Encode what arrives, until cancelled."""
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
                except Exception as error:  # the model's own: these requests fail, the next are tried
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
            if not future.done():  # its client may have gone
                batch.append((decoded, future))
        return batch

    def warm_up(self) -> None:
        """Encode a text, in time: the first one takes ten times as long."""
        if self._encoder.tokenizer is not None:
            self._model.submit(self._encode, [Decoded(text="a")])

    def _encode(self, inputs: list[Decoded]) -> list[np.ndarray]:
        return encode_decoded(self._encoder, inputs, self._feature)
