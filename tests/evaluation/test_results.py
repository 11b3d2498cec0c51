"""Evaluators share one shape, and measurements compute their metrics."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.evaluation.results import Measurement, evaluate
from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.evaluation.statistics.scores import ItemScores, measure

SCORES = ItemScores.of("top-1", np.arange(10) < 7, [str(number) for number in range(10)])
MEASUREMENT = Measurement(task="toys", method="k-NN", scores=(SCORES,))


class Constant:
    """An evaluator that scores any model alike."""

    def run(self, encoder: str, track: object) -> list[Measurement]:
        return [replace(MEASUREMENT, method=f"{encoder}-NN")]


def test_metrics_are_those_of_the_scores_unless_given() -> None:
    assert MEASUREMENT.metrics == (measure(SCORES),)
    other = Metric(name="top-1", value=0.5, n=3, interval=None)
    assert replace(MEASUREMENT, metrics=(other,)).metrics == (other,)


def test_evaluate_runs_each_evaluator_under_each_transform() -> None:
    measurements = evaluate([Constant(), Constant()], {"squash": "3", "crop": "4"})
    assert [measurement.label for measurement in measurements] == [
        ("toys", "3-NN", "squash", ""),
        ("toys", "4-NN", "crop", ""),
    ] * 2


@pytest.mark.parametrize("kind", [Measurement, Metric])
def test_fields_are_given_by_name(kind: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind("toys", "k-NN")


def test_every_evaluator_has_the_same_shape(root: Path) -> None:
    """`run(model, track) -> list[Measurement]`, its own or that of `LayerEvaluator`."""
    shapes = {}
    for path in (root / "perception_encoder" / "evaluation").rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Evaluator"):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "run"]
                names = [[a.arg for a in (*f.args.posonlyargs, *f.args.args)] for f in methods]
                shapes[node.name] = [
                    (len(name), name[-1], ast.unparse(f.returns)) for f, name in zip(methods, names, strict=True)
                ]
                inherited = any(re.match("(Layer|Head)Evaluator", ast.unparse(base)) for base in node.bases)
                assert bool(methods) != inherited, node.name
    assert len(shapes) > 10
    assert {repr(item) for shape in shapes.values() for item in shape} == {repr((3, "track", "list[Measurement]"))}
