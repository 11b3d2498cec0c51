"""Layers are at even intervals, and a model's cached results are read, also those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.layers.evaluation import Model, evaluate_model, spread_to_last, unpack
from experiments.layers.tasks import LayerData, Sizes
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from tests.layer_analysis.toys import LightnessTask


def test_layers_are_at_even_intervals_with_the_last() -> None:
    assert spread_to_last(12) == [1, 3, 5, 7, 9, 11]
    assert spread_to_last(24) == list(range(3, 24, 4))
    assert spread_to_last(2) == [0, 1] and spread_to_last(6) == list(range(6))


def test_results_of_earlier_versions_are_read(data: LayerData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = (LightnessTask(count=12, name="tracking", lower=True),)
    monkeypatch.setattr("experiments.layers.evaluation.make_layer_tasks", lambda *_: tasks)
    model = Model(name=COLOURS, source=COLOURS)
    result = evaluate_model(model, data, Sizes(), tmp_path)
    (cache,) = (tmp_path / "analyses").iterdir()
    old = json.loads(cache.read_text())
    old["images"] = old.pop("images")
    for curve in old["curves"]:
        curve["figure"] = curve.pop("metric")
        for score in curve["layers"].values():
            curve |= {name: score.pop(name) for name in ("unit", "lower_is_better", "pool")}
            score["drawn"] = score.pop("draws")
            del score["name"]
    cache.write_text(json.dumps(old))
    again = evaluate_model(model, data, Sizes(), tmp_path)
    assert again["images"] == result["images"] and tasks[0].evaluated == [0]
    (one,), (other,) = (unpack(COLOURS, each).values() for each in (result, again))
    assert one.metric == other.metric == "error" and one.unit == other.unit == "m" and other.lower_is_better
    np.testing.assert_array_equal(one.scores[0].draws, other.scores[0].draws)
