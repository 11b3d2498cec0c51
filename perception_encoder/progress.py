"""Progress of long work: a caller may pass a function that shows a bar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable; `rich.progress.Progress.track` fits through a small adapter."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        """Yield `items` unchanged, showing how many of `total` are done."""
        ...


def untracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Show nothing."""
    return items
