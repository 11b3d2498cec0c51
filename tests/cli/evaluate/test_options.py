"""How the commands of `pe eval` end."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from perception_encoder.cli import output
from perception_encoder.cli.evaluate import options
from perception_encoder.errors import MediaDecodeError
from perception_encoder.evaluation.protocol import Metric
from perception_encoder.evaluation.results import Measurement
from tests.cli.evaluate.conftest import read_json


def test_failures_are_written_listed_once_and_change_the_status(tmp_path: Path, capsys) -> None:
    metric = Metric(name="top-1", value=0.5, n=4, ci=None)
    measurement = Measurement(
        task="toys", method="zero-shot", transform="crop", prompts="", classes=2, metrics=(metric,)
    )
    failure = MediaDecodeError("a.jpg", "is empty")
    with pytest.raises(typer.Exit) as stop:
        options.finish("nano", "val", [([measurement], [failure]), ([], [failure])], {}, tmp_path / "r.json")
    assert stop.value.exit_code == output.SOME_SKIPPED
    captured = capsys.readouterr()
    assert "top-1" in captured.out and captured.err.count("a.jpg: is empty") == 1 and "1 of 5" in captured.err
    assert read_json(tmp_path / "r.json")["failures"] == ["a.jpg: is empty"]
