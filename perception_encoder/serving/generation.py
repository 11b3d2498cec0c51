"""Answer conversations with a language model: one at a time, in a thread of its own, while a few others wait."""

from __future__ import annotations

import collections.abc
import gc
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial

from perception_encoder.errors import MediaTooLargeError
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.models.memory import trim_memory
from perception_encoder.preprocess.budget import MAX_PIXELS
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.streaming import pieces_from

Hold = Callable[[int, int], None]
"""Counts the bytes and pixels of an image or video until the conversation ends; MediaTooLargeError, QueueFullError."""


class GenerationQueue:
    """A language model and the conversations that wait for it; all its methods belong to one event loop.

    `name`: what clients call the model; `source`: another name, the one that the user gave. `load` makes it when the
    first conversation comes. `limit`: conversations that are read, wait or are answered. `media_bytes`: of their
    images and videos together, which are decoded when a conversation's turn comes.
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
        self.name, self.names, self.limit, self.reserved = name, (name, source or name), limit, 0
        self._load, self._media_bytes, self._held = load, media_bytes, 0
        self._model: Assistant | None = None
        self._thread = ThreadPoolExecutor(1, "language")

    @contextmanager
    def reserve(self) -> Iterator[Hold]:
        """Reserve room for a conversation until the block ends; raises QueueFullError."""
        if self.reserved >= self.limit:
            raise QueueFullError(f"{self.reserved} conversations wait already; the limit is {self.limit}")
        own, shown = 0, 0

        def hold(size: int, pixels: int) -> None:
            nonlocal own, shown
            shown += pixels
            if shown > MAX_PIXELS:
                reason = f"have more than {MAX_PIXELS:,} pixels together, the limit"
                raise MediaTooLargeError("the conversation's images and videos", reason)
            if self._held + size > self._media_bytes:
                raise QueueFullError(f"the images and videos of {self.reserved} conversations fill the memory")
            own, self._held = own + size, self._held + size

        self.reserved += 1
        try:
            yield hold
        finally:
            self.reserved -= 1
            self._held -= own

    async def stream(
        self, open_conversation: Callable[[], Sequence[Message]], sampling: Sampling
    ) -> AsyncGenerator[str | Reply, None]:
        """Yield an answer piece by piece and, last, as a whole; call it under `reserve`.

        `open_conversation` opens the images and videos when their turn comes, so that those of one conversation alone
        are in memory. Closing the iterator, or cancelling its task, ends the generation at the next token. Raises what
        loading the model, `open_conversation` and `Assistant.generate_stream` raise.
        """
        pieces = pieces_from(self._thread, partial(self._answer, open_conversation, sampling))
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _answer(
        self, open_conversation: Callable[[], Sequence[Message]], sampling: Sampling
    ) -> collections.abc.Generator[str | Reply, None, None]:
        if self._model is None:  # if loading fails, the next conversation tries again
            self._model = self._load()
            gc.collect()  # what was read of files, in cycles
            trim_memory()
        yield (yield from self._model.generate_stream(open_conversation(), sampling))
