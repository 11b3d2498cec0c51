"""The pixel budget: what an image may take while it is opened, and what threads may open at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from perception_encoder.errors import MediaTooLargeError

Admit = Callable[[int], object]
"""Called with the bytes that an image is going to take, before it is decoded; returns when they may be taken."""

MAX_PIXELS = 178_956_970
"""Pixels at most of an image, of a rendered page, of a video's frames together, and of a conversation's media together:
Pillow's own limit, 512 MiB as RGB."""
PIXEL_BYTES = 8
"""Bytes of memory that a pixel takes at most while an image is opened: four as stored, four of a turned or converted
copy. The decoders of some formats take more."""
MAX_BYTES = MAX_PIXELS * PIXEL_BYTES
"""Bytes of memory that an image takes at most while it is opened."""
_CORE_BYTES = 256 << 20  # 33 million pixels


def check_pixels(
    name: str, width: int, height: int, pixel_bytes: int = PIXEL_BYTES, limit: int = MAX_PIXELS, what: str = ""
) -> int:
    """Return the bytes that an image takes at most while it is opened; MediaTooLargeError over `limit` pixels or
    `MAX_BYTES`. `what`: has so many pixels, such as "frames of"."""
    pixels, limit = width * height, min(limit, MAX_BYTES // pixel_bytes)
    if pixels > limit:
        raise MediaTooLargeError(name, f"has {what}{what and ' '}{pixels:,} pixels; the limit is {limit:,}")
    return pixels * pixel_bytes


class ByteBudget:
    """A limit on bytes in flight; threads share one. A request above the limit waits until all bytes are free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free and hold them until the block ends."""
        with self._turn, self._changed:  # first come, first served: small ones do not overtake a large one for ever
            self._changed.wait_for(lambda: not self._held or self._held + size <= self.limit)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    @contextmanager
    def admission(self) -> Iterator[Admit]:
        """Yield what `open_image` and `read_frames` call; what they hold is free again when the block ends."""
        with ExitStack() as reservations:
            yield lambda size: reservations.enter_context(self.holding(size))


DECODING = ByteBudget(_CORE_BYTES * (os.cpu_count() or 1))
"""What all threads of this process share, unless they are given another budget."""
