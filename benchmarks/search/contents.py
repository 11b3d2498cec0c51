"""The parts of the search benchmark, and the page that their figures make."""

from __future__ import annotations

import os
import platform
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
"""Each has `TITLE`, `measure(brief)` → its figures, and `section(figures)` → its lines of the page."""


def machine() -> str:
    """Where a part runs."""
    return f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON."""
    lines = ["# Searching, indexing and serving", ""]
    for name, part in PARTS.items():
        if name in result:
            figures = result[name]
            before, after = figures["load"]
            origin = (
                f"Written by `{figures['command']}`; {figures['machine']}; load {before:.1f} before, {after:.1f} after"
            )
            brief = " (fewer rounds, without what is slow to build)" if "--brief" in figures["command"] else ""
            lines += [f"## {part.TITLE}", "", f"{origin}{brief}.", "", *part.section(figures), ""]
    return "\n".join(lines)
