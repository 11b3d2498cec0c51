"""Print the page of a benchmark, and write it with its JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """What every benchmark says of the machine that it ran on."""
    return f"{torch.get_num_threads()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def report(result: dict[str, Any], page: Callable[[dict[str, Any]], str], out: Path | None) -> None:
    """Print the page of a result; write the result as JSON to `out`, and the page beside it."""
    print(page(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(page(result))
