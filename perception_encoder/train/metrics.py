"""What a run reports: a line a step group in a JSONL file, and to whoever listens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Listener = Callable[[dict[str, float]], None]
FILE = "metrics.jsonl"


class Metrics:
    """Appends rows to `FOLDER/metrics.jsonl`; a resumed run first drops the rows after its checkpoint."""

    def __init__(self, folder: Path, step: int, listener: Listener | None = None) -> None:
        self.path = folder / FILE
        self.listener = listener
        if self.path.exists():
            kept = [row for row in self.path.read_text().splitlines() if json.loads(row)["step"] <= step]
            self.path.write_text("".join(f"{row}\n" for row in kept))

    def write(self, row: dict[str, float]) -> None:
        """Add a row; it must have a `step`."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.listener is not None:
            self.listener(row)
