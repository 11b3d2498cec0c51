"""What a card's benchmark asks of its device: seconds by CUDA events, memory, and an end to waiting."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.encode.rounds import seconds_of

LIBRARIES = ("torch", "timm", "open_clip_torch", "transformers")


class TimeLimit(BaseException):
    """A contender took too long. No library may catch it, so it is no Exception."""


class Device:
    """A card, or a CPU, whose memory is not counted."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_card = device, device.type == "cuda"

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the seconds of a call, until the card is done."""
        if not self.is_card:
            return seconds_of(run)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def allocated(self) -> int:
        """Return the bytes of all tensors on the card."""
        return torch.cuda.memory_allocated(self.device) if self.is_card else 0

    def added(self, run: Callable[[], object]) -> int | None:
        """Return by how many bytes the card's tensors grow, at most, in a call; None on a CPU."""
        if not self.is_card:
            return None
        before = self.allocated()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.seconds(run)
        return torch.cuda.max_memory_allocated(self.device) - before

    def clear(self) -> None:
        """Drop compiled programs and free unused memory."""
        torch.compiler.reset()
        gc.collect()
        if self.is_card:
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Return the card's name and memory, and the libraries."""
        found: dict[str, Any] = {"card": "CPU"}
        if self.is_card:
            card = torch.cuda.get_device_properties(self.device)
            found = {"card": card.name, "memory": card.total_memory, "cuda": torch.version.cuda}
        return found | {"libraries": {name: version(name) for name in LIBRARIES}}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the block when its time is over, where the system has alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeLimit(f"it took more than {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
