"""Progress of long work: a bar with items/s and remaining time, and functions that a caller may pass to show one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable; `rich.progress.Progress.track` fits through a small adapter."""

    def __call__(self, items: Iterable[T], description: str, total: int | None) -> Iterable[T]:
        """Yield `items` unchanged, showing how many of `total` are done."""


def untracked(items: Iterable[T], description: str, total: int | None) -> Iterable[T]:
    """Show nothing."""
    return items


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> str:
        return f"{task.finished_speed or task.speed or 0:.1f} items/s"


@contextmanager
def progress_bar(
    description: str, total: int | None = None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if it is a terminal, while the block runs; yields `advance(items)`."""
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda items: bar.advance(task, items)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Load models with transformers without its bars; those of downloads remain. ImportError without the library."""
    import huggingface_hub.utils
    from transformers.utils import logging as library

    hub: Any = huggingface_hub.utils
    enabled, downloads = library.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    library.disable_progress_bar()  # the hub's as well
    if downloads:
        hub.enable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            library.enable_progress_bar()
        if not downloads:
            hub.disable_progress_bars()
