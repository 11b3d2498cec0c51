"""Differences are read from the JSON of each experiment, and claimed where their interval shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.differences import find_signs
from experiments.findings import GAPS, all_gaps, layer_gaps
from experiments.layers.run import BUILTIN, FIRST, LAST, NORMED, UNTRAINED, curve_rows
from perception_encoder.layer_analysis.sweep import LayerCurve, LayerScore

NOISE = np.random.default_rng(0).normal(size=(4, 1000))


def curve(
    model: str,
    task: str,
    values: Sequence[float],
    spread: float = 0.002,
    items: int = 50,
    blocks: int = 50,
    by_seed: Sequence[float] = (-0.001, 0.0, 0.001),
) -> LayerCurve:
    """A curve of some layers; of errors where the task is depth. Each layer's draws scatter by themselves."""
    lower = task.startswith("depth")
    scores = {
        layer: LayerScore(
            name="RMSE" if lower else "score",
            value=value,
            n=items,
            draws=value + spread * NOISE[layer],
            blocks=blocks,
            pool="tokens",
            unit="m" if lower else "%",
            lower_is_better=lower,
            by_seed=tuple(value + item * (1 - 2 * (layer % 2)) for item in by_seed),
        )
        for layer, value in enumerate(values)
    }
    return LayerCurve(model=model, task=task, metric="RMSE" if lower else "score", depth=len(values), scores=scores)


def made(model: str) -> dict[str, LayerCurve]:
    """Tracking of five clips peaks at 1, depth of one sequence too, classification at the output."""
    better = 0.0 if model == UNTRAINED else 0.2
    return {
        "tracking": curve(model, "tracking", [0.3, 0.4 + better, 0.4, 0.4], blocks=5, items=5, by_seed=()),
        "depth of rooms": curve(model, "depth of rooms", [0.9, 0.3, 0.6, 0.6], blocks=1, items=20),
        "classification": curve(model, "classification", [0.1, 0.2, 0.499, 0.5]),
    }


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    models = [FIRST, LAST, BUILTIN, UNTRAINED]
    curves = {model: made(model) for model in models}
    last = made(BUILTIN)["tracking"]
    curves[NORMED] = {"tracking": curve(NORMED, "tracking", [0.44], blocks=5, items=5, by_seed=())}
    assert last.scores[3].value == 0.4
    baselines = {model: UNTRAINED if model in (FIRST, LAST, BUILTIN) else None for model in curves}
    return {
        "models": [{"name": name, "baseline": baselines[name], "seconds": 60} for name in curves],
        "curves": curve_rows(curves, baselines),
    }


def test_rows_have_seeds_and_blocks(result: dict[str, Any]) -> None:
    rows = {(row["model"], row["task"]): row for row in result["curves"]}
    depth = rows[LAST, "depth of rooms"]
    assert (depth["blocks"], depth["head_seeds"], depth["items"], depth["best"]) == (1, 3, 20, 1)
    assert depth["gap"] == {"unit": "m", "value": pytest.approx(0.3), "standard_error": None, "blocks": 1}
    assert depth["interval"] == [None] * 4 and depth["random_best"] == pytest.approx(0.3)
    tracking = rows[LAST, "tracking"]
    assert tracking["gap"]["value"] > 0 and tracking["gap"]["blocks"] == 5 and tracking["head_seeds"] == 0
    assert "random_best" not in rows[UNTRAINED, "tracking"]


def test_a_difference_is_claimed_where_an_interval_shows_it(result: dict[str, Any]) -> None:
    gaps = layer_gaps(result)
    assert len(gaps) == 3 * 3 and gaps["depth of rooms", LAST].interval is None  # its test frames are of one sequence
    assert {key for key, sign in find_signs(gaps).items() if sign} == {("tracking", m) for m in (FIRST, LAST, BUILTIN)}
    assert gaps["tracking", LAST].value == pytest.approx(0.2) and gaps["depth of rooms", LAST].value == pytest.approx(
        0.3
    )


def test_all_differences_are_named_by_their_experiment(root: Path) -> None:
    results = {name: json.loads((root / "docs" / "results" / f"{name}.json").read_text()) for name in GAPS}
    gaps = all_gaps(results)
    assert {key[0] for key in gaps} == set(GAPS) and len(gaps) == 169
    assert any(not gap.parts for gap in gaps.values())  # the seeds of some were not stored
