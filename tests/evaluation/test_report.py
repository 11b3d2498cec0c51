"""Results: from evaluators, as JSON and as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.results import Result, from_json, full_table, to_json
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.models.registry import BUILTIN


def scored(task: str, method: str, transform: str, value: float, prompts: str = "photo") -> tuple[Score, Score]:
    label = {"task": task, "method": method, "transform": transform, "prompts": prompts, "classes": 4, "n": 1649}
    return (
        Score(name="mean class accuracy", value=value, interval=(value - 0.02, value + 0.01), **label),
        Score(name="top-1", value=value / 2, interval=(0.1, 0.3), **label),
    )


RESULT = Result(
    model=BUILTIN,
    split="test",
    scores=(
        *scored("flowers", "zero-shot", "squash", 0.73),
        *scored("flowers", "zero-shot", "crop", 0.83),
        *scored("flowers", "zero-shot", "crop", 0.99, "imagenet"),
        *scored("flowers", "linear probe", "squash", 0.8125, ""),
        *scored("clothing", "zero-shot", "squash", 0.399),
        *scored("clothing", "zero-shot", "crop", 0.1),
        *scored("caltech101/unseen", "zero-shot", "squash", 0.2),
        *scored("caltech101/unseen", "zero-shot", "crop", 0.1),
        Score(
            name="image by name R@1",
            value=0.25,
            n=500,
            interval=(0.2, 0.3),
            task="openmoji",
            method="retrieval",
            transform="squash",
            prompts="name",
            classes=500,
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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": [1], "failures": []}', '{"scores": 3}'])
def test_other_json_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError, match=r"r\.json is not a result"):
        from_json(text, "r.json")


def test_a_result_without_an_interval_has_none_in_tables_and_json() -> None:
    bare = Score(name="J&F", value=0.5, n=5, task="tracking", method="label propagation")
    result = replace(RESULT, scores=(bare,))
    assert full_table(result)[0] == ("task", "method", "metric", "n", "%")
    assert from_json(to_json(result), "r.json") == result


def test_failures_are_written_once_with_their_reason() -> None:
    failed = replace(RESULT.scores[0], failures=(InputError("flowers-7", "cannot be decoded"),))
    assert to_json(replace(RESULT, scores=(failed, *RESULT.scores[1:]))) == to_json(RESULT)
