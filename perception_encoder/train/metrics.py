"""Report a run: rows in a JSONL file and in TensorBoard, and to a listener."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from perception_encoder.errors import MissingExtraError
from perception_encoder.files import write_text
from perception_encoder.ranks import Rank

Listener = Callable[[dict[str, float]], None]
FILE, BOARD = "metrics.jsonl", "tensorboard"


class Metrics:
    """Appends rows to `DIR/metrics.jsonl` and DIR/tensorboard; a resumed run first drops what was after `step`.

    The first rank reports, the others do nothing. MissingExtraError without TensorBoard.
    """

    def __init__(self, folder: Path, step: int, rank: Rank, listener: Listener | None = None) -> None:
        self.path, self.listener, self._reports = folder / FILE, listener, rank.number == 0
        if not self._reports:
            return
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "train") from None
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            rows = self.path.read_text().splitlines(keepends=True)
            whole = [row for row in rows if row.endswith("\n")]  # a killed run may have cut the last one
            write_text(self.path, "".join(row for row in whole if json.loads(row)["step"] <= step))
        self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1)

    def write(self, row: dict[str, float], record: bool = True) -> None:
        """Add a row, which must have a `step`; or only tell the listener of it, without `record`."""
        if not self._reports:
            return
        if record:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))
        if self.listener is not None:
            self.listener(row)

    def close(self) -> None:
        """Have all of it on the disk."""
        if self._reports:
            self._board.close()
