"""The rows of a run: appended, cut back when a run is resumed, and told to a listener."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.ranks import ALONE
from perception_encoder.training.metrics import FILE, Metrics


def test_rows_after_the_step_that_is_resumed_from_are_dropped(tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []
    first = Metrics(tmp_path, 0, ALONE)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "lo')  # killed
    again = Metrics(tmp_path, 2, ALONE, heard.append)
    again.write({"step": 3, "loss": 9.0}, record=False)
    again.write({"step": 3, "loss": 8.0})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 8.0}]
    assert [row["loss"] for row in heard] == [9.0, 8.0]


def test_a_table_has_a_row_for_each_step(tmp_path: Path) -> None:
    """A step that was validated has one row, as spreadsheets and pandas want it, and one that was not has gaps."""
    metrics = Metrics(tmp_path, 0, ALONE)
    metrics.write({"step": 1, "loss": 0.5, "lr": 0.1})
    metrics.write({"step": 2, "loss": 0.25, "lr": 0.2})
    metrics.write({"step": 2, "validation/top1": 0.9})
    metrics.close()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,lr,validation/top1\n1,0.5,0.1,\n2,0.25,0.2,0.9\n"
