"""Dense tasks in small, in the smallest: two models and colours, cached results, differences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.dense import run
from experiments.dense.run import BEST, CORE, LAST, SPATIAL, TRACKING, DenseData, Sizes, compare_features
from experiments.findings import dense_gaps, dense_scores
from perception_encoder.layer_analysis.sweep import COLOURS
from tests.layer_analysis.toys import LightnessTask, named

SIZES = Sizes(layers=(8, 11))


def test_all_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = named(LightnessTask(count=12, name=TRACKING), LightnessTask(count=12, name="depth", lower=True))
    monkeypatch.setattr(run, "read_tasks", lambda *_: tasks)
    out, runs, data = tmp_path / "dense.json", tmp_path / "runs", DenseData(scenes=tmp_path, clips=tmp_path)
    result = compare_features(out, runs, data, SIZES)
    assert [row["model"] for row in result["curves"]] == [CORE, CORE, SPATIAL, SPATIAL, COLOURS]
    assert [(row["task"], row["against"]) for row in result["differences"]] == [
        (TRACKING, LAST),
        (TRACKING, BEST),
        (TRACKING, COLOURS),
        ("depth", LAST),
        ("depth", BEST),
    ]
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    monkeypatch.setattr("experiments.layers.evaluation.run_sweep", lambda *_: pytest.fail("evaluated again"))
    assert compare_features(out, runs, data, SIZES) == result
    assert set(dense_scores(result)[TRACKING]) == {COLOURS, LAST, BEST, SPATIAL}
    assert len(dense_gaps(result)) == 5
