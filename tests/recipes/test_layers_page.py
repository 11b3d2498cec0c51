"""Findings and the page of the layers in small, from curves whose best layers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.layer_task import LayerScore
from perception_encoder.evaluation.outcomes import PHOTOS
from perception_encoder.layer_analysis.sweep import LayerCurve
from perception_encoder.recipes.layer_findings import claim, curve_rows, effect, effect_rows
from perception_encoder.recipes.layers_page import page
from perception_encoder.recipes.reproduce_layers import (
    BUILTIN,
    DEPTHS,
    FIRST,
    LAST,
    LENGTHS,
    POOLS,
    contrasts,
    tower_name,
)
from perception_encoder.recipes.reproduction import Figures

ITEMS = 50
NOISE = np.random.default_rng(0).normal(size=(4, 1000))


def curve(model: str, task: str, values: Sequence[float], spread: float = 0.002, items: int = ITEMS) -> LayerCurve:
    """A curve of four layers; of errors where the task is depth. Each layer's draws scatter by themselves."""
    lower = task.startswith("depth")
    scores = {
        layer: LayerScore(
            name="RMSE" if lower else "figure",
            value=value,
            n=items,
            drawn=value + spread * NOISE[layer],
            pool="tokens",
            unit="m" if lower else "" if task == "captions" else "%",
            lower_is_better=lower,
        )
        for layer, value in enumerate(values)
    }
    return LayerCurve(model=model, task=task, figure="RMSE" if lower else "figure", depth=len(values), scores=scores)


TOWERS = {
    tower_name(depth, pool, length): (depth, pool, length) for depth in DEPTHS for pool in POOLS for length in LENGTHS
}
RANDOM = "random"


def made(model: str) -> dict[str, LayerCurve]:
    """Tracking peaks at 1 and falls with depth's 24 layers; depth peaks at 2 for all; classification at the end."""
    deep = 0.10 if TOWERS.get(model, (12,))[0] == 24 else 0.0
    better = 0.05 if model in (LAST, BUILTIN) else 0.0
    if model == RANDOM:
        return {
            "tracking": curve(model, "tracking", [0.3] * 4),
            "depth of rooms": curve(model, "depth of rooms", [0.5] * 4),
            "classification": curve(model, "classification", [0.1] * 4),
            "captions": curve(model, "captions", [0.06] * 4),
        }
    return {
        "tracking": curve(model, "tracking", [0.5, 0.7 + better, 0.65 + better, 0.6 + better - deep]),
        "depth of rooms": curve(model, "depth of rooms", [0.5, 0.4, 0.3, 0.301], spread=0.02),
        "classification": curve(model, "classification", [0.1, 0.2, 0.3, 0.1 if model == FIRST else 0.5]),
        "captions": curve(model, "captions", [0.06, 0.08, 0.11, 0.1]),
    }


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    models = [FIRST, LAST, BUILTIN, *TOWERS, RANDOM]
    curves = {model: made(model) for model in models}
    beside = {model: RANDOM if model != RANDOM else None for model in models}
    photos = {"value": 0.5, "ci": [0.4, 0.6]}
    said = {"image_size": 128, "seconds": 60, "failures": []}
    trained = [{"name": name, "beside": beside[name], **said} for name in models]
    runs: Figures = [
        {"name": name, "depth": depth, "tflop": 70 if length == "short" else 210, "seconds": 600, "samples": 1000}
        for name, (depth, _, length) in TOWERS.items()
    ]
    return {
        "runs": {str(number): run for number, run in enumerate(runs)},
        "models": [{**model, **({PHOTOS: photos} if model["name"] in TOWERS else {})} for model in trained],
        "curves": curve_rows(curves, beside),
        "effects": effect_rows(curves, contrasts(DEPTHS)),
    }


def test_known_peaks_are_found(result: dict[str, Any]) -> None:
    rows = {(row["model"], row["task"]): row for row in result["curves"]}
    assert [rows[LAST, task]["best"] for task in ("tracking", "depth of rooms", "classification")] == [1, 2, 3]
    assert rows[LAST, "tracking"]["gap"]["ci"][0] > 0 > rows[LAST, "depth of rooms"]["gap"]["ci"][0]
    assert rows[LAST, "depth of rooms"]["above_random"]["value"] == pytest.approx(0.2)  # metres better, not worse
    assert "above_random" not in rows[RANDOM, "tracking"]


def test_a_change_is_claimed_where_all_pairs_show_it(result: dict[str, Any]) -> None:
    rows = {(row["contrast"], row["task"]): row for row in result["effects"]}
    assert claim(rows["depth", "tracking"]["gap"]) == "more" and claim(rows["depth", "tracking"]["output"]) == "less"
    assert claim(rows["depth", "tracking"]["best"]) == claim(rows["length", "tracking"]["gap"]) == "none"
    assert claim(rows["recipe", "tracking"]["best"]) == "more"
    assert rows["recipe", "classification"]["depth"] == [pytest.approx(1 / 3, abs=1e-4)]
    assert claim({"ci": [0.1, 0.3], "pairs": [0.4, -0.1]}) == "none"


def test_models_measured_on_other_items_are_not_compared() -> None:
    with pytest.raises(DataError, match="a and b were measured on other items at tracking"):
        effect([(curve("a", "tracking", [0.1]), curve("b", "tracking", [0.1], items=3))], "best")


def test_the_page_says_what_the_curves_say(result: dict[str, Any]) -> None:
    text = page(result, "p.png")
    assert "- **tracking**: the output is behind the best layer in 11 of 11 trained models; most of all in *24" in text
    assert "- **depth of rooms**: in none of 11 trained models can the output be told from the best layer." in text
    assert f"- **classification**: the output is behind the best layer in 1 of 11 trained models ({FIRST})" in text
    assert (
        "three fifths of the pairs: the best layer is shown to differ on no task; the output is worse on tracking"
        in text
    )
    assert "the gap is wider on tracking." in text
    assert "Best layers that cannot be told from random weights' best: none." in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 9 |")]
    assert ["9", "the recipe lifts the best layer", "tracking, classification", "–", "depth of rooms, captions"] in rows
    overview = next(line for line in text.splitlines() if line.startswith(f"| {LAST} |"))
    assert overview == f"| {LAST} | 1 of 3: **−10.0** | 2 of 3: −0.001 m | 3 of 3: the output | 2 of 3: **−0.010** |"
