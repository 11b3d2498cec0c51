"""Queues of a server: inputs encoded in batches, and conversations answered one at a time."""

from __future__ import annotations

import asyncio
import copy
import gc
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
from jaxtyping import Float

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import MediaTooLargeError, PerceptionEncoderError, detached
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import Feature
from perception_encoder.inference.pipeline import Decoded
from perception_encoder.models.memory import trim_memory
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.preprocess.media import Media
from perception_encoder.web_server.http import ApiError

Waiting = tuple[Decoded, Feature, "asyncio.Future[np.ndarray]"]


class QueueFullError(ApiError):
    """Too many inputs are waiting: status 429."""

    def __init__(self, reason: str) -> None:
        super().__init__(429, f"{reason}; try again later")


def quiet(encoder: Encoder) -> Encoder:
    """Return a copy of the encoder that does not warn about long texts, as the warning would log them."""
    changed = copy.copy(encoder)
    changed.towers = encoder.towers.quiet()
    return changed


class Batcher:
    """Encodes inputs in batches while `run` is running; all methods must be called on one event loop.

    A batch is of one feature, by default the encoder's own.
    `limit`: maximum number of waiting inputs, including those being read. `pixel_bytes`: maximum memory of all their
    pixels, which are whole images for sentence-transformers. `largest`: maximum size of a batch. `patience`: seconds
    that a batch waits for inputs that are being read. The model runs in one thread, `model_thread` if given: torch and
    the C library keep memory for each thread that computes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        limit: int = 4096,
        pixel_bytes: int = 2 << 30,
        largest: int = 64,
        patience: float = 0.004,
        model_thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self.largest = largest
        self._encoder, self._limit, self._pixel_bytes, self._patience = encoder, limit, pixel_bytes, patience
        self._feature = encoder.feature()
        self._waiting: deque[Waiting] = deque()
        self._changed = asyncio.Event()
        self._model = model_thread or ThreadPoolExecutor(1, "model")
        self.reserved = 0
        """Number of inputs being read, waiting, or being encoded."""
        self._held = 0

    @contextmanager
    def reserve(self, inputs: int) -> Iterator[Callable[[Decoded], Decoded]]:
        """Reserve space for inputs until the block ends; raises QueueFullError.

        Yields a function that counts the memory of each when it is decoded, and returns it; raises MediaTooLargeError
        if these inputs need more than the limit, QueueFullError with the others.
        """
        if self.reserved + inputs > self._limit:
            raise QueueFullError(f"{self.reserved} inputs are waiting; the limit is {self._limit}")
        held = 0

        def hold(decoded: Decoded) -> Decoded:
            nonlocal held
            size = decoded.bytes
            if held + size > self._pixel_bytes:
                reason = f"need more than {self._pixel_bytes >> 20:,} MiB of memory; send fewer, or smaller ones"
                raise MediaTooLargeError("the request's images and videos", reason)
            if self._held + size > self._pixel_bytes:
                raise QueueFullError(f"the images and videos of {self.reserved} inputs fill the memory")
            held, self._held = held + size, self._held + size
            return decoded

        self.reserved += inputs
        try:
            yield hold
        finally:
            self.reserved -= inputs
            self._held -= held
            self._changed.set()

    def decode(self, media: Media, feature: Feature | None = None) -> Decoded:
        """Decode an image or video and resize it, in any thread; raises InputError."""
        return self._encoder.decode(media, feature or self._feature, served=True)

    async def encode(
        self, inputs: Sequence[Decoded], features: Sequence[Feature] | None = None
    ) -> Float[np.ndarray, "n D"]:
        """Return unit vectors in order; call it within `reserve`. `features`: of each input."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in inputs]
        self._waiting.extend(zip(inputs, features or [self._feature] * len(inputs), futures, strict=True))
        self._changed.set()
        try:
            return np.stack(await asyncio.gather(*futures))
        finally:
            for future in futures:  # of a client that disconnected
                future.cancel()

    async def run(self) -> None:
        """Encode incoming inputs until cancelled."""
        while True:
            await self._changed.wait()
            await self._wait_for_readers()
            self._changed.clear()
            while batch := self._next_batch():
                inputs, feature = [decoded for decoded, _, _ in batch], batch[0][1]
                try:
                    vectors = await asyncio.get_running_loop().run_in_executor(
                        self._model, self._encoder.encode_decoded, inputs, feature
                    )
                except Exception as error:  # of the model: only these requests fail
                    for *_, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (*_, future), vector in zip(batch, vectors, strict=True):
                    if not future.done():
                        future.set_result(vector)

    async def _wait_for_readers(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while self._waiting and len(self._waiting) < min(self.reserved, self.largest):
                    self._changed.clear()
                    await self._changed.wait()

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        others: list[Waiting] = []
        while self._waiting and len(batch) < self.largest:
            waiting = self._waiting.popleft()
            if waiting[-1].done():  # its client disconnected
                continue
            (batch if not batch or waiting[1] == batch[0][1] else others).append(waiting)
        self._waiting.extendleft(reversed(others))
        return batch

    def warm_up(self) -> None:
        """Encode a text at the start, as the first one takes ten times as long."""
        if self._encoder.reads_texts:
            self._model.submit(self._encoder.encode_decoded, [Decoded(text="a")], self._feature)


Hold = Callable[[int, int], None]
"""Counts bytes and pixels of media until the conversation ends; raises MediaTooLargeError, QueueFullError."""


class GenerationQueue:
    """An assistant with a queue of conversations; all methods must be called on one event loop.

    `name`: what clients call the model; `source`: another name, the one that the user gave. `load` loads it for the
    first conversation. `limit`: maximum number of conversations that are being read, waiting or being answered.
    `media_bytes`: maximum size of all their images and videos, which are decoded when a conversation's turn comes.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Assistant],
        *,
        source: str = "",
        limit: int = 16,
        media_bytes: int = 256 << 20,
    ) -> None:
        self.name, self.names, self._limit, self.reserved = name, (name, source or name), limit, 0
        self._load, self._media_bytes, self._held = load, media_bytes, 0
        self._model: Assistant | None = None
        self._thread, self._turn = ThreadPoolExecutor(1, "language"), asyncio.Lock()

    @contextmanager
    def reserve(self) -> Iterator[Hold]:
        """Reserve space for a conversation until the block ends; raises QueueFullError."""
        if self.reserved >= self._limit:
            raise QueueFullError(f"{self.reserved} conversations are waiting; the limit is {self._limit}")
        held, shown = 0, 0

        def hold(size: int, pixels: int) -> None:
            nonlocal held, shown
            shown += pixels
            if shown > MAX_PIXELS:
                reason = f"have more than {MAX_PIXELS:,} pixels together, the limit"
                raise MediaTooLargeError("the conversation's images and videos", reason)
            if self._held + size > self._media_bytes:
                raise QueueFullError(f"the images and videos of {self.reserved} conversations fill the memory")
            held, self._held = held + size, self._held + size

        self.reserved += 1
        try:
            yield hold
        finally:
            self.reserved -= 1
            self._held -= held

    async def stream(
        self, open_conversation: Callable[[], Sequence[Message]], sampling: Sampling
    ) -> AsyncGenerator[str | Reply, None]:
        """Yield an answer piece by piece and finally as a whole; call it within `reserve`.

        `open_conversation` decodes the images and videos when their turn comes, so that only those of one conversation
        are in memory. Closing the iterator, or cancelling its task, stops the generation at the next token. Raises what
        loading the model, `open_conversation` and `Assistant.generate_stream` raise.
        """
        pieces: asyncio.Queue[str | Reply | Exception | None] = asyncio.Queue()
        task = asyncio.create_task(self._generate(open_conversation, sampling, pieces.put_nowait))
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            piece = None  # an error holds this frame
            task.cancel()

    async def _generate(
        self,
        open_conversation: Callable[[], Sequence[Message]],
        sampling: Sampling,
        put: Callable[[str | Reply | Exception | None], None],
    ) -> None:
        """Answer when it is the conversation's turn, however slowly the client reads: others wait for that turn."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        async with self._turn:
            answer = self._answer(open_conversation, sampling)
            try:
                while (piece := await in_thread(next, answer, None)) is not None:
                    put(piece)
            except Exception as error:
                put(detached(error) if isinstance(error, (ApiError, PerceptionEncoderError)) else error)
            finally:
                await in_thread(answer.close)
        put(None)

    def _answer(
        self, open_conversation: Callable[[], Sequence[Message]], sampling: Sampling
    ) -> Generator[str | Reply, None, None]:
        if self._model is None:  # if loading fails, the next conversation retries
            self._model = self._load()
            gc.collect()  # what loading left behind in reference cycles
            trim_memory()
        yield (yield from self._model.generate_stream(open_conversation(), sampling))
