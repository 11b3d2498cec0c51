"""What every benchmark says of its machine, how it hands over its result, and what pages read of one."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Rows = list[Sequence[str]]
Tables = Mapping[str, Rows]
"""Tables by their headings."""
Read = Callable[[str], Any]
"""Returns the content of a JSON file of docs/results, by its name."""
RECALL = 0.99
"""What a nearest-neighbour search is compared at."""


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


def best_setting(settings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fastest setting that reaches `RECALL`, or else the one with the highest recall."""
    enough = [setting for setting in settings if setting["recall"] >= RECALL]
    if enough:
        return min(enough, key=lambda setting: float(setting["median"]))
    return max(settings, key=lambda setting: float(setting["recall"]))
