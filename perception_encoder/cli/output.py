"""Output of commands: results on stdout, warnings and one-line errors on stderr.

A terminal gets aligned tables; a pipe or a file gets tab-separated values under one header line.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perception_encoder.errors import InputError, shorten

OK, SOME_SKIPPED, ERROR, INTERRUPTED = 0, 1, 2, 130
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


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout, in ASCII, so that any file name survives; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_paths(paths: Iterable[str], null: bool) -> None:
    """Print each path once, unchanged, followed by a newline or, with `null`, by a NUL byte."""
    sys.stdout.flush()
    for path in dict.fromkeys(paths):
        sys.stdout.buffer.write(os.fsencode(path) + (b"\0" if null else b"\n"))


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
    """Print how many files of directories are neither images nor videos, by type, on stderr."""
    if total := sum(left_out.values()):
        types = ", ".join(f"{left_out[kind]} {kind}" for kind in ("RAW", "SVG", "other") if left_out.get(kind))
        files = "1 file is" if total == 1 else f"{total} files are"
        print_note(f"{files} of an unsupported type: {types}")


def report_skipped(failures: Sequence[InputError], total: int) -> int:
    """List skipped inputs with their reasons on stderr; returns the exit status."""
    for failure in failures:
        print_warning(f"skipped {failure}")
    if failures:
        print_warning(f"{len(failures)} of {total} inputs skipped")
    return SOME_SKIPPED if failures else OK


def input_status(failures: Sequence[InputError], used: int, strict: bool) -> int:
    """List skipped inputs on stderr; returns 0 if any input was `used`, 1 under `strict`, 2 if none."""
    status = report_skipped(failures, used + len(failures))
    if failures and used <= 0:
        return ERROR
    return status if strict else OK


def exit_with_skipped(failures: Sequence[InputError], used: int, strict: bool) -> NoReturn:
    """End a command with `input_status`."""
    raise typer.Exit(input_status(failures, used, strict))
