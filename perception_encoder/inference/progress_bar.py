"""A progress bar on stderr, with items/s and the time left; hidden if stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn


class Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> str:
        return f"{task.finished_speed or task.speed or 0:.1f} items/s"


@contextmanager
def progress_bar(
    description: str, total: int | None = None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields `advance(items)`."""
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda items: bar.advance(task, items)
