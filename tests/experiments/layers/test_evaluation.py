"""Layers are at even intervals, and a model's cached results are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.layers.evaluation import Model, evaluate_model, unpack
from experiments.layers.tasks import LayerData, Sizes
from perception_encoder.layer_analysis.sweep import COLOURS
from tests.layer_analysis.toys import LightnessTask, named


def test_cached_results_are_read(data: LayerData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = named(LightnessTask(count=12, name="tracking", lower=True))
    monkeypatch.setattr("experiments.layers.evaluation.make_layer_tasks", lambda *_: tasks)
    model = Model(name=COLOURS, source=COLOURS)
    result = evaluate_model(model, data, Sizes(), tmp_path)
    again = evaluate_model(model, data, Sizes(), tmp_path)
    assert again["images"] == result["images"] and tasks["tracking"].evaluated == [0]
    (one,), (other,) = (unpack(COLOURS, item).values() for item in (result, again))
    assert one.metric == other.metric == "error" and one.unit == other.unit == "m" and other.lower_is_better
    np.testing.assert_array_equal(one.scores[0].draws, other.scores[0].draws)
