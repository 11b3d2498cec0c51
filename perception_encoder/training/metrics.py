"""Report a run: rows of numbers to a JSONL file, a table, TensorBoard and a listener."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_encoder.errors import needs_extra
from perception_encoder.files import write_text
from perception_encoder.ranks import Rank
from perception_encoder.store import Records

Listener = Callable[[dict[str, float]], None]
Row = dict[str, int | float]
FILE, BOARD = "metrics.jsonl", "tensorboard"
_REMEDY = "remove the line, or the file"


class Metrics:
    """Appends rows to DIR/metrics.jsonl and DIR/tensorboard; resuming first drops the rows after `step`.

    `close` writes them to DIR/metrics.csv as well.

    Only the first rank reports. Raises MissingExtraError without TensorBoard, and DataError, with the line, for a
    damaged file.
    """

    def __init__(self, directory: Path, step: int, rank: Rank, listener: Listener | None = None) -> None:
        self.path, self.listener, self._reports = directory / FILE, listener, rank.is_first
        if not self._reports:
            return
        with needs_extra("train", "tensorboard"):
            from torch.utils.tensorboard.writer import SummaryWriter
        directory.mkdir(parents=True, exist_ok=True)
        self._rows = Records(self.path, Row, _REMEDY)
        if self._rows.rows:
            self._rows.replace([row for row in self._rows.rows if row.get("step", 0) <= step])
        self._board = SummaryWriter(str(directory / BOARD), purge_step=step + 1)

    def write(self, row: dict[str, float], record: bool = True) -> None:
        """Write a row, which must have a `step`; without `record`, send it only to the listener."""
        if not self._reports:
            return
        if record:
            self._rows.append(row)
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))
        if self.listener is not None:
            self.listener(row)

    def close(self) -> None:
        """Flush everything to disk, and write all rows as a table, one row a step, beside the JSONL file."""
        if not self._reports:
            return
        self._board.close()
        steps: dict[float, dict[str, Any]] = {}
        for row in self._rows.rows:
            steps.setdefault(row.get("step", 0), {}).update(row)
        table = io.StringIO()
        columns = dict.fromkeys(name for row in steps.values() for name in row)
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(steps.values())
        write_text(self.path.with_suffix(".csv"), table.getvalue())
