"""What every benchmark says of its machine, and how it hands over its result."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """Return the cores and versions of this machine."""
    return f"{torch.get_num_threads()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def report(result: dict[str, Any], out: Path | None) -> None:
    """Write a result as JSON, or print it."""
    text = json.dumps(result, indent=1)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")
