"""Limit the memory for opening an image, and for all threads that open images; map in order from such threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from perception_encoder.errors import MediaTooLargeError

T = TypeVar("T")
R = TypeVar("R")
Admit = Callable[[int], object]
"""Called with the bytes an image needs before decoding it; returns once they are available."""

MAX_PIXELS = 178_956_970
"""Maximum number of pixels of an image, of a rendered page, of all frames of a video, and of all media of a
conversation: Pillow's limit, 512 MiB as RGB."""
PIXEL_BYTES = 8
"""Maximum bytes per pixel while an image is opened: four as stored, four for a turned or converted copy. Decoders of
some formats need more."""
MAX_BYTES = MAX_PIXELS * PIXEL_BYTES
"""Maximum bytes of memory for an image while it is opened."""
_CORE_BYTES = 256 << 20  # 33 million pixels


def check_pixels(name: str, width: int, height: int, pixel_bytes: int = PIXEL_BYTES, of: str = "") -> int:
    """Return the maximum bytes needed to open an image or, `of` "frames of ", a frame; or MediaTooLargeError."""
    pixels, limit = width * height, min(MAX_PIXELS, MAX_BYTES // pixel_bytes)
    if pixels > limit:
        raise MediaTooLargeError(name, f"has {of}{pixels:,} pixels; the limit is {limit:,}")
    return pixels * pixel_bytes


class ByteBudget:
    """A limit on bytes in use, shared by threads. A request above the limit waits until all bytes are free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._holders: set[int] = set()  # threads

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free and hold them until the block ends.

        Raises RuntimeError in a thread that holds some already, as it could wait for itself.
        """
        thread = threading.get_ident()
        if thread in self._holders:
            raise RuntimeError("this thread already holds a part of the memory; release it first")
        with self._turn, self._changed:  # first come, first served: small requests cannot starve a large one
            self._changed.wait_for(lambda: not self._held or self._held + size <= self.limit)
            self._held += size
        self._holders.add(thread)
        try:
            yield
        finally:
            self._holders.remove(thread)
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    @contextmanager
    def admission(self) -> Iterator[Admit]:
        """Yield an `admit` function for `open_image` and `read_frames`.

        Its bytes are released when the block ends, or when it is called again, for another attempt.
        """
        with ExitStack() as reservation:

            def admit(size: int) -> None:
                reservation.close()
                reservation.enter_context(self.holding(size))

            yield admit


def map_ahead(work: Callable[[T], R], items: Iterable[T], pool: Executor, limit: int) -> Iterator[R]:
    """Yield `work(item)` for each item, in order, from a pool's threads; at most `limit` items are under way."""
    under_way: deque[Future[R]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) >= limit:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


DECODING = ByteBudget(_CORE_BYTES * (os.cpu_count() or 1))
"""The default budget, shared by all threads of this process."""
