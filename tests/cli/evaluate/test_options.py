"""How the commands of `pe eval` end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from perception_encoder.cli import evaluate, output
from perception_encoder.cli import evaluate_options as options
from perception_encoder.datasets.classified import load_tasks
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import MediaDecodeError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.bootstrap import Metric
from synthetic.builtin.held_out import find_unseen_labels
from tests.cli.evaluate.conftest import read_json
from tests.evaluation.colours import ColourEncoder, write_colours


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


@pytest.mark.parametrize(
    ("command", "config"),
    [(evaluate.segmentation, FitConfig), (evaluate.depth, FitConfig), (evaluate.attentive, AttentiveConfig)],
)
def test_a_command_fits_as_long_as_its_function(command: Callable[..., None], config: type) -> None:
    assert inspect.signature(command).parameters["epochs"].default == config().epochs


def test_no_class_is_a_task_of_its_own_by_default(tmp_path: Path) -> None:
    """Not even those that the built-in model is never trained on: they are of its own evaluation, `synthetic.suite`."""
    path = write_colours(tmp_path / "photos" / "test.tar", "caltech101", ["red heart", "green leaf"])
    assert {source for source, _ in find_unseen_labels(path)} == {"caltech101"}
    assert list(load_tasks(tmp_path / "photos", "test", options.class_options())) == ["caltech101"]
