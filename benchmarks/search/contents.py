"""The parts of the search benchmark, and the page of their results."""

from __future__ import annotations

import os
import platform
from textwrap import wrap
from typing import Any

import torch

from benchmarks.search import ann, indexing, library, server, shell, video

PARTS: dict[str, Any] = {
    "ann": ann,
    "page": library,
    "shell": shell,
    "indexing": indexing,
    "video": video,
    "server": server,
}
"""Each has `measure(brief)` → its result, and `rows(result)` → its rows of the page."""


def machine() -> str:
    """Where a part runs."""
    return f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON: one table; peers' settings, other datasets and ranges are in the JSON."""
    parts = {name: result[name] for name in PARTS if name in result}
    commands = ", ".join(f"`{part['command']}`" for part in parts.values())
    machines = " and ".join(dict.fromkeys(part["machine"] for part in parts.values()))
    text = (
        f"Written by {commands}; {machines}. Medians on a shared machine. Videos are of H.264 at 426x240, images JPEGs "
        "of 640x480; server and clients share the cores, and no peer server can be installed here. Of each contender "
        "of the nearest neighbours the quickest setting with the recall of the aim is shown, or else the one with the "
        "highest recall. Ranges, clustered vectors, build times and sizes are in the JSON."
    )
    rows = [row for name, part in parts.items() for row in PARTS[name].rows(part)]
    lines = ["# Searching, indexing and serving", "", *wrap(text, 118, break_on_hyphens=False), ""]
    lines += ["| what | measured | aim |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
