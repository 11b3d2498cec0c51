"""Output of commands: results on stdout, warnings and one-line errors on stderr.

A terminal gets aligned tables; a pipe or a file gets tab-separated values under one header line.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perception_encoder.errors import InputError, install_command, shorten
from perception_encoder.models.registry import demo_line
from perception_encoder.preprocess.source import RAW_SUFFIXES, unescape_name
from perception_encoder.progress import progress_bar

T = TypeVar("T")

OK, SOME_SKIPPED, ERROR, INTERRUPTED, CLOSED_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143
NONE = "–"
"""An empty cell."""

console = Console()
error_console = Console(stderr=True)


def printable(text: object) -> str:
    """Return `text` on one line: line breaks as spaces, control characters and undecodable bytes as escapes."""
    return _escape(" ".join(str(text).splitlines()))


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def print_line(text: str) -> None:
    """Print one line on stdout; markup in it is not interpreted."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def print_fields(*fields: object) -> None:
    """Print values on one line of stdout, separated by tabs."""
    sys.stdout.write("\t".join(map(printable, fields)) + "\n")
    sys.stdout.flush()


def print_pieces(pieces: Iterable[str]) -> str:
    """Print a text on stdout piece by piece as it arrives, its line breaks too; returns the whole text."""
    text = []
    for piece in pieces:
        text.append(piece)
        sys.stdout.write("\n".join(map(_escape, piece.split("\n"))))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(text)


def program() -> str:
    """Return how to call `pe` again: by the path of this call, unless the shell finds the same file as `pe`."""
    called, found = Path(sys.argv[0]), shutil.which("pe")
    if called.stem != "pe" or (found and called.exists() and called.samefile(found)):
        return "pe"
    return shlex.quote(sys.argv[0])


def print_remark(text: str) -> None:
    """Print a line about the results: on a terminal below them, else as a note, to keep pipes free of it."""
    (print_line if console.is_terminal else print_note)(text)


def _report(kind: str, style: str, message: str) -> None:
    error_console.print(Text.assemble((f"{kind}: ", style), message), highlight=False, soft_wrap=True)


def print_error(message: object) -> None:
    """Print `error: …` as one line on stderr."""
    _report("error", "bold red", shorten(printable(message)))  # system errors quote names of any length


def print_warning(message: object) -> None:
    """Print `warning: …` as one line on stderr."""
    _report("warning", "bold yellow", printable(message))


def print_note(message: object) -> None:
    """Print `note: …` as one line on stderr: a hint, nothing is wrong."""
    _report("note", "bold", printable(message))


def print_demo(*models: object) -> None:
    """Warn on stderr of the built-in demos among a command's models."""
    for note in dict.fromkeys(demo_line(str(model)) for model in models if model is not None):
        if note:
            print_warning(note)


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout, in ASCII, so that any file name survives; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_paths(paths: Iterable[str]) -> None:
    """Print each path once: its bytes as they are on disk and a NUL byte."""
    sys.stdout.flush()
    for path in dict.fromkeys(paths):
        sys.stdout.buffer.write(os.fsencode(unescape_name(path)) + b"\0")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table on stdout; on a terminal under its title, with columns of numbers (– for none) aligned right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        lines = ["\t".join("" if cell == NONE else cell for cell in row) for row in (columns, *cells)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return
    heading = None if title is None else Text(printable(title))
    table = Table(title=heading, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(re.fullmatch(r"[-+–]?[\d.,]*%?", row[index]) for row in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def report_left_out(left_out: Mapping[str, int]) -> None:
    """Print how many files of directories are neither images nor videos, and their commonest suffixes, on stderr."""
    if left_out:
        types = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in Counter(left_out).most_common(5))
        print_note(f"files of unsupported types: {sum(left_out.values())} ({types})")
    if RAW_SUFFIXES & left_out.keys():
        print_note(f"to read RAW photographs, {install_command('raw')}")


def report_skipped(failures: Sequence[InputError], total: int, known: int = 0) -> int:
    """List skipped inputs with their reasons on stderr; returns the exit status.

    `known`: number of the last ones, which an earlier run has listed; they get one line.
    """
    for failure in failures[: len(failures) - known]:
        print_warning(f"skipped {failure}")
    if failures:
        as_before = f", {known} of them as in the last run" if known else ""
        print_warning(f"{len(failures)} of {total} inputs skipped{as_before}")
    return SOME_SKIPPED if failures else OK


def exit_with_skipped(failures: Sequence[InputError], used: int, strict: bool, known: int = 0) -> NoReturn:
    """End a command and list skipped inputs: status 0 if any input was `used`, 1 under `strict`, 2 if none."""
    status = report_skipped(failures, used + len(failures), known)
    if failures and used <= 0:
        raise typer.Exit(ERROR)
    raise typer.Exit(status if strict else OK)


@contextmanager
def interruptible(told: Callable[[], str | None]) -> Iterator[None]:
    """End the command if Ctrl-C or SIGTERM interrupts the block, after the warning that `told` returns, if any."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        status = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else stop.code
        if status not in (INTERRUPTED, TERMINATED):
            raise
        if text := told():
            print_warning(text)
        raise typer.Exit(int(status)) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields `advance(items)`."""
    if console.quiet:
        yield lambda items: None
        return
    with progress_bar(description, total, error_console) as advance:
        yield advance


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged, with a bar that counts them."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance(1)


def mover(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that moves a bar to a number of items."""
    done = 0

    def move(count: int) -> None:
        nonlocal done
        advance(count - done)
        done = count

    return move


def reporter(advance: Callable[[int], None]) -> Callable[[dict[str, float]], None]:
    """Return a listener of the training loop that moves the bar and prints each report on one line."""
    move = mover(advance)

    def show(row: dict[str, float]) -> None:
        move(int(row["step"]))
        print_line(live_line(row))

    return show


def live_line(row: dict[str, float]) -> str:
    """Return a report of the training loop as one line, with the time left in hours and minutes."""
    left = row.get("seconds_left")
    row = {name.replace("samples_per_second", "samples/s"): value for name, value in row.items()}
    parts = [f"{name} {value:g}" for name, value in row.items() if name != "seconds_left"]
    minutes = [] if left is None else [f"{int(left) // 3600}:{int(left) % 3600 // 60:02} h left"]
    return "  ".join(parts + minutes)
