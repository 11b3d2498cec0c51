"""Bytes of decoded images that threads hold at the same time: large images wait for each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Admit = Callable[[int], object]
"""Called with the bytes that an image is going to take, before it is decoded; returns when they may be taken."""

_CORE_BYTES = 256 << 20  # 33 million pixels


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
