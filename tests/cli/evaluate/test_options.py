"""How the commands of `pe eval` end."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import perception_encoder as pe
from perception_encoder.cli import evaluate, output
from perception_encoder.cli.groups import _find_app
from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.results import run_evaluators
from perception_encoder.evaluation.statistics.scores import Score
from tests.cli.evaluate.conftest import read_json
from tests.evaluation.colours import colour_encoder


class HalfRight:
    """Scores one half on four items; a fifth cannot be decoded."""

    def run(self, source: Embeddings, track: object = None) -> Iterator[Score]:
        failures = (MediaDecodeError("a.jpg", "is empty"),)
        yield Score(name="top-1", value=0.5, n=4, task="toys", method="zero-shot", failures=failures)


def test_failures_are_written_listed_once_and_change_the_status(tmp_path: Path, capsys) -> None:
    models = {"squash": Embeddings(colour_encoder()), "crop": Embeddings(colour_encoder())}
    with pytest.raises(typer.Exit) as stop:
        evaluate.show(run_evaluators([HalfRight()], models, "val", {}), tmp_path / "r.json")
    assert stop.value.exit_code == output.SOME_SKIPPED
    captured = capsys.readouterr()
    assert "top-1" in captured.out and captured.err.count("a.jpg: is empty") == 1 and "1 of 5" in captured.err
    written = read_json(tmp_path / "r.json")
    assert written["failures"] == ["a.jpg: is empty"] and len(written["scores"]) == 2


@pytest.mark.parametrize("task", pe.evaluate.tasks)
def test_every_argument_of_a_call_is_an_option_with_its_default(task: str) -> None:
    options = {option.name: option for option in typer.main.get_command(_find_app(f"evaluate:{task}", task)).params}
    for name, parameter in inspect.signature(pe.evaluate.tasks[task]).parameters.items():
        if name == "progress":
            continue
        required = name in ("model", "data", "dataset")
        assert options[name].required == required, name
        assert required or options[name].default == ("20" if name == "k" else parameter.default), name


def test_evaluate_is_what_the_command_prints(colour_models, photos: Path, tmp_path: Path) -> None:
    result = pe.evaluate.knn("any", photos, split="val", k=[1, 5])
    assert [score.method for score in result.scores] == ["1-NN", "1-NN", "5-NN", "5-NN"] and result.model == "colours"
    again = pe.evaluate("knn", colour_encoder(), str(photos), split="val", k=[1, 5])
    assert again.to_dict() == result.to_dict()
    assert all(item.winner is None for item in pe.compare(result, again))


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("kn", {}, "'kn' is not a known task; did you mean 'knn'?"),
        ("knn", {"top": 3}, "'top' is not a known argument of knn; choose one of split, train, media, k"),
        ("knn", {"transforms": "crop"}, "did you mean 'transform'?"),
        ("questions", {"dataset": "docqa"}, "'docqa' is not a known dataset; did you mean 'docvqa'?"),
    ],
)
def test_unknown_tasks_and_arguments_have_a_near_match(task: str, arguments: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        pe.evaluate(task, "any", tmp_path, **arguments)
