"""Answer conversations with a language model: one at a time, in a thread of its own, while a few others wait."""

from __future__ import annotations

import collections.abc
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial

from perception_encoder.errors import MediaTooLargeError
from perception_encoder.preprocess.conversation import Generator, MediaPart, Message, Reply, Sampling
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.serving.batching import QueueFullError
from perception_encoder.serving.streaming import pieces_from

Hold = Callable[[MediaPart], MediaPart]
"""Counts an image or video until the conversation ends, and returns it; MediaTooLargeError or QueueFullError."""


class GenerationQueue:
    """A language model and the conversations that wait for it; all its methods belong to one event loop.

    `name`: what clients call the model; `source`: another name, the one that the user gave. `load` makes it when the
    first conversation comes. `limit`: conversations that are read, wait or are answered. `media_bytes`: of their
    decoded images and videos together.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Generator],
        *,
        source: str = "",
        limit: int = 16,
        media_bytes: int = 1 << 30,
    ) -> None:
        self.name, self.names, self.limit, self.reserved = name, (name, source or name), limit, 0
        self._load, self._media_bytes, self._held = load, media_bytes, 0
        self._model: Generator | None = None
        self._thread = ThreadPoolExecutor(1, "language")

    @contextmanager
    def reserve(self) -> Iterator[Hold]:
        """Reserve room for a conversation until the block ends; raises QueueFullError."""
        if self.reserved >= self.limit:
            raise QueueFullError(f"{self.reserved} conversations wait already; the limit is {self.limit}")
        own = 0

        def hold(item: MediaPart) -> MediaPart:
            nonlocal own
            size = decoded_bytes(item)
            if own + size > self._media_bytes:
                reason = f"take more than {self._media_bytes:,} bytes decoded, the limit"
                raise MediaTooLargeError("the conversation's images and videos", reason)
            if self._held + size > self._media_bytes:
                raise QueueFullError(f"the images and videos of {self.reserved} conversations fill the memory")
            own, self._held = own + size, self._held + size
            return item

        self.reserved += 1
        try:
            yield hold
        finally:
            self.reserved -= 1
            self._held -= own

    async def stream(self, conversation: Sequence[Message], sampling: Sampling) -> AsyncGenerator[str | Reply, None]:
        """Yield an answer piece by piece and, last, as a whole; call it under `reserve`.

        Closing the iterator, or cancelling its task, ends the generation at the next token. Raises what loading the
        model and `Generator.stream` raise.
        """
        pieces = pieces_from(self._thread, partial(self._answer, conversation, sampling))
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _answer(
        self, conversation: Sequence[Message], sampling: Sampling
    ) -> collections.abc.Generator[str | Reply, None, None]:
        if self._model is None:  # if loading fails, the next conversation tries again
            self._model = self._load()
        yield (yield from self._model.stream(conversation, sampling))


def decoded_bytes(item: MediaPart) -> int:
    """Bytes of a decoded image, or of a video's frames."""
    images = item.images if isinstance(item, VideoFrames) else [item]
    return sum(len(image.getbands()) * image.width * image.height for image in images)
