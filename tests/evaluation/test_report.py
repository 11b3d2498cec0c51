"""Results: from evaluators, as JSON and as tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.comparison import full_table
from perception_encoder.evaluation.results import Measurement, Result, evaluate, from_json, to_json
from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.models.registry import BUILTIN

METRIC = Metric(name="J&F", value=0.5, n=5, interval=(0.4, 0.6))


def measured(task: str, method: str, transform: str, value: float, prompts: str = "photo") -> Measurement:
    metrics = (
        Metric(name="mean class accuracy", value=value, n=1649, interval=(value - 0.02, value + 0.01)),
        Metric(name="top-1", value=value / 2, n=1649, interval=(0.1, 0.3)),
    )
    return Measurement(task=task, method=method, transform=transform, prompts=prompts, classes=4, metrics=metrics)


RESULT = Result(
    model=BUILTIN,
    split="test",
    measurements=(
        measured("flowers", "zero-shot", "squash", 0.73),
        measured("flowers", "zero-shot", "crop", 0.83),
        measured("flowers", "zero-shot", "crop", 0.99, "imagenet"),
        measured("flowers", "linear probe", "squash", 0.8125, ""),
        measured("clothing", "zero-shot", "squash", 0.399),
        measured("clothing", "zero-shot", "crop", 0.1),
        measured("caltech101/unseen", "zero-shot", "squash", 0.2),
        measured("caltech101/unseen", "zero-shot", "crop", 0.1),
        Measurement(
            task="openmoji",
            method="retrieval",
            transform="squash",
            prompts="name",
            classes=500,
            metrics=(Metric(name="image by name R@1", value=0.25, n=500, interval=(0.2, 0.3)),),
        ),
    ),
    failures=("flowers-7: cannot be decoded",),
    about={"weights": "abc", "torch": "2.6"},
)


def test_every_result_is_listed_with_its_label() -> None:
    _, rows = full_table(RESULT)
    assert len(rows) == 17
    assert rows[2] == ("flowers", "zero-shot", "crop", "photo", "mean class accuracy", "1,649", "83.0", "81.0–84.0")
    assert rows[6][:4] == ("flowers", "linear probe", "squash", "–")


def test_json_keeps_everything() -> None:
    assert from_json(to_json(RESULT), "r.json") == RESULT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"measurements": [1], "failures": []}', '{"measurements": 3}'])
def test_other_json_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match=r"r\.json is not a result"):
        from_json(text, "r.json")


def test_a_result_without_an_interval_has_none_in_tables_and_json() -> None:
    bare = Measurement(task="tracking", method="label propagation", metrics=(replace(METRIC, interval=None),))
    result = replace(RESULT, measurements=(bare,))
    assert (
        full_table(result)[0] == ("task", "method", "metric", "n", "%")
        and from_json(to_json(result), "r.json") == result
    )


def test_failures_are_written_once_with_their_reason() -> None:
    failed = replace(RESULT.measurements[0], failures=(InputError("flowers-7", "cannot be decoded"),))
    assert to_json(replace(RESULT, measurements=(failed, *RESULT.measurements[1:]))) == to_json(RESULT)


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
