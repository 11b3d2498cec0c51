"""Progress bars on stderr, with items/s and the time left; none if stderr is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from perception_encoder.cli import output
from perception_encoder.progress import progress_bar

T = TypeVar("T")
LABELS = {"samples_per_second": "samples/s", "mfu": "MFU"}


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields `advance(items)`."""
    if output.console.quiet:
        yield lambda items: None
        return
    with progress_bar(description, total, output.error_console) as advance:
        yield advance


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged, with a bar that counts them."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def reporter(advance: Callable[[int], None]) -> Callable[[dict[str, float]], None]:
    """Return a listener of the training loop that moves the bar and prints each report on one line."""
    done = 0

    def show(row: dict[str, float]) -> None:
        nonlocal done
        advance(int(row["step"]) - done)
        done = int(row["step"])
        output.print_line(live_line(row))

    return show


def live_line(row: dict[str, float]) -> str:
    """Return a report of the training loop as one line, with the time left in hours and minutes."""
    left = row.get("seconds_left")
    parts = [f"{LABELS.get(name, name)} {value:g}" for name, value in row.items() if name != "seconds_left"]
    minutes = [] if left is None else [f"{int(left) // 3600}:{int(left) % 3600 // 60:02} h left"]
    return "  ".join(parts + minutes)
