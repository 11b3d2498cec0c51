"""The record of a run, and its rows: appended, cut back when a run is resumed, and told to a listener."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from perception_encoder.ranks import ALONE, Rank
from perception_encoder.training.metrics import FILE, Metrics, describe_run
from tests.training.toys import CONFIG


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


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    other = Metrics(tmp_path, 0, Rank(rank=1, world_size=2))
    other.write({"step": 1})
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_the_record_has_the_resolved_configuration() -> None:
    record = describe_run(CONFIG, "b", {"flowers": 3})
    assert record["fingerprint"] == "b" and record["samples"] == {"flowers": 3}
    assert record["config"]["optimizer"]["lr"] == CONFIG.optimizer.lr and record["config"]["steps"] == CONFIG.steps
    assert record["versions"]["torch"] == torch.__version__
