"""Print the page of a benchmark, write it with its JSON, and read the JSON of earlier versions."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

OLD_WORDS = {
    "as it comes": "default",
    "beside": "baseline",
    "ci": "interval",
    "drawn": "draws",
    "figure": "metric",
    "figures": "scores",
    "folder": "directory",
    "FOLDER": "DIR",
    "foreign things": "foreign names",
    "picture": "image",
    "pictures": "images",
    "said": "nothing matches",
}
"""Words in the keys that earlier versions wrote into results and caches, to today's."""
_OLD_WORD = re.compile(rf"\b(?:{'|'.join(OLD_WORDS)})\b")


def with_new_words(value: Any) -> Any:
    """Rename the keys that earlier versions wrote, at every depth of a result."""
    if isinstance(value, list):
        return [with_new_words(each) for each in value]
    if isinstance(value, Mapping):
        return {_renamed(key): with_new_words(each) for key, each in value.items()}
    return value


def _renamed(key: Any) -> Any:
    return _OLD_WORD.sub(lambda old: OLD_WORDS[old[0]], key) if isinstance(key, str) else key


def machine() -> str:
    """What every benchmark says of the machine that it ran on."""
    return f"{torch.get_num_threads()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def report(result: dict[str, Any], page: Callable[[dict[str, Any]], str], out: Path | None) -> None:
    """Print the page of a result; write the result as JSON to `out`, and the page beside it."""
    print(page(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(page(result))
