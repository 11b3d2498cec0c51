"""How the commands of `pe eval` end."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from perception_encoder.cli import output
from perception_encoder.cli.evaluate import options
from perception_encoder.errors import MediaDecodeError
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.bootstrap import Metric
from tests.cli.evaluate.conftest import read_json
from tests.evaluation.colours import ColourEncoder


class HalfRight:
    """Scores one half on four items; a fifth cannot be decoded."""

    def run(self, encoder: ColourEncoder, track: object = None) -> list[Measurement]:
        metric = Metric(name="top-1", value=0.5, n=4, interval=None)
        failure = MediaDecodeError("a.jpg", "is empty")
        return [Measurement(task="toys", method="zero-shot", metrics=(metric,), failures=(failure,))]


def test_failures_are_written_listed_once_and_change_the_status(tmp_path: Path, capsys) -> None:
    models = {"squash": ColourEncoder(), "crop": ColourEncoder()}
    with pytest.raises(typer.Exit) as stop:
        options.finish([HalfRight()], models, "val", {}, tmp_path / "r.json")
    assert stop.value.exit_code == output.SOME_SKIPPED
    captured = capsys.readouterr()
    assert "top-1" in captured.out and captured.err.count("a.jpg: is empty") == 1 and "1 of 5" in captured.err
    written = read_json(tmp_path / "r.json")
    assert written["failures"] == ["a.jpg: is empty"] and len(written["measurements"]) == 2
