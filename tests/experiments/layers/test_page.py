"""The page of the layers in small says what curves show, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from experiments.layers.page import page
from experiments.layers.run import BUILTIN, FIRST, LAST, NORMED, UNTRAINED, curve_rows
from perception_encoder.layer_analysis.curve import LayerCurve, LayerScore

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
            by_seed=tuple(value + each * (1 - 2 * (layer % 2)) for each in by_seed),
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


def row_of(text: str, model: str, number: int) -> list[str]:
    """The cells of a model's row: 0 of the first task."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if f"| {model} |" in line]
    return [cell.strip() for cell in rows[number]]


def test_rows_have_seeds_and_blocks(result: dict[str, Any]) -> None:
    rows = {(row["model"], row["task"]): row for row in result["curves"]}
    depth = rows[LAST, "depth of rooms"]
    assert (depth["blocks"], depth["head_seeds"], depth["items"], depth["best"]) == (1, 3, 20, 1)
    assert depth["gap"] == {"unit": "m", "value": pytest.approx(0.3), "standard_error": None, "blocks": 1}
    assert depth["interval"] == [None] * 4 and depth["random_best"] == pytest.approx(0.3)
    tracking = rows[LAST, "tracking"]
    assert tracking["gap"]["value"] > 0 and tracking["gap"]["blocks"] == 5 and tracking["head_seeds"] == 0
    assert "random_best" not in rows[UNTRAINED, "tracking"]


def test_the_page_claims_what_an_interval_shows(result: dict[str, Any]) -> None:
    text = page(result, "p.png")
    joined = " ".join(text.split())
    assert (
        "worse than the best layer in 3 of 9 rows (bold): tracking, step 1; tracking, steps 1–9; tracking, " in joined
    )
    assert "No interval, and so no claim, for depth of rooms: its test frames are of one sequence." in joined
    assert "with the final norm the built-in model's output has tracking 44.0 % instead of 40.0 %" in joined
    assert "Each model was trained with one seed" in joined and "peak" not in text
    assert row_of(text, LAST, 0)[2:5] == ["1", "60.0 %", "40.0 %"] and row_of(text, LAST, 0)[5].startswith("**20.0 poi")
    assert row_of(text, LAST, 1)[2:] == ["1", "0.300 m", "0.600 m", "0.300 m", "0.300 m"]
    assert text.count("| depth of rooms: RMSE") == 1 and "20 items in 1 block |" in text


def test_the_page_is_one_paragraph_one_table_and_one_plot(result: dict[str, Any]) -> None:
    kinds = [block.strip()[0] for block in page(result, "p.png").split("\n\n") if block.strip()]
    assert kinds == ["#", "W", "|"] or kinds == ["#", "W", "|", "!"]
    assert page(result, "p.png").count("![") == 1
