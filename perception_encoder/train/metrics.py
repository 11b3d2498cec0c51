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
            rows = self.path.read_text().splitlines(keepends=True)
            whole = [row for row in rows if row.endswith("\n")]  # a killed run may have cut the last one
            self.path.write_text("".join(row for row in whole if json.loads(row)["step"] <= step))

    def write(self, row: dict[str, float]) -> None:
        """Add a row; it must have a `step`."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.listener is not None:
            self.listener(row)
