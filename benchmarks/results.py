"""What a benchmark leaves: its page on the screen and, where asked for, as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def report(result: dict[str, Any], page: Callable[[dict[str, Any]], str], out: Path | None) -> None:
    """Print the page of a result; write the result as JSON to `out`, and the page beside it."""
    print(page(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(page(result))
