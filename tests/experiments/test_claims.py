"""What pages say: outcomes, differences, claims and the built-in model's card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.builtin.card import compare_with_targets, update_card
from experiments.differences import Gap, find_signs, format_gap, gain, to_gap
from experiments.findings import GAPS, all_gaps, layer_gaps
from experiments.layers.run import BUILTIN, FIRST, LAST, NORMED, UNTRAINED, curve_rows
from experiments.outcomes import DRAWINGS, PHOTOS, HeldOut, Outcome, average_row
from experiments.robustness import CHANGES
from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Result, from_json
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.layer_analysis.sweep import LayerCurve, LayerScore
from perception_encoder.models.registry import BUILTIN as DEMO
from tests.evaluation.colours import colour_encoder, write_colours

LABELS = ["red cup", "red pot", "green pea", "blue jay", "red cup", "green pea"]


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    write_colours(tmp_path / "photos" / "test" / "shop.tar", "shop", LABELS, coarse=True)
    write_colours(tmp_path / "photos" / "test" / "toys.tar", "toys", ["red", "blue"])
    write_colours(tmp_path / "drawings" / "unseen.tar", "openmoji", ["red hat", "blue hat"])
    return HeldOut(tmp_path / "photos", tmp_path / "drawings")


def test_every_set_and_task(held_out: HeldOut) -> None:
    outcomes = held_out.evaluate(colour_encoder())
    assert list(outcomes) == [PHOTOS, *CHANGES, DRAWINGS]
    photos = {outcome.task: outcome.right.tolist() for outcome in outcomes[PHOTOS]}
    assert photos == {"shop": [True, False, True, True, True, True], "shop/coarse": [True] * 6, "toys": [True, True]}
    assert [outcome.keys for outcome in outcomes["grey"]] == [("shop-0", "shop-3")] * 2 + [("toys-0",)]
    grey = [outcome.right.all() for outcome in outcomes["grey"]]
    assert not all(grey)  # an encoder of colours cannot know them without
    occluded = outcomes["occluded"][0]
    assert occluded.right.tolist() == [True, True]  # and does not need all of the image
    (drawings,) = outcomes[DRAWINGS]
    assert drawings.right.tolist() == [True, True]


def outcome(task: str, labels: str, right: str) -> Outcome:
    keys = tuple(str(number) for number in range(len(labels)))
    return Outcome(task, keys, tuple(labels), np.array([letter == "1" for letter in right]))


def test_the_average_is_over_classes_then_tasks_then_sets() -> None:
    fine = outcome("food", "aaab", "1100")  # a 2/3, b 0
    coarse = outcome("food/coarse", "xxyy", "1111")
    other = outcome("cars", "pq", "10")
    row = average_row("score", [[fine, coarse], [other]])
    assert row["value"] == pytest.approx(((1 / 3 + 1) / 2 + 1 / 2) / 2)
    assert row["n"] == 6  # images of food and of cars, each once


def test_images_of_two_tasks_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.5
    keys = tuple(map(str, range(400)))
    one = Outcome("food", keys, ("a",) * 400, right)
    same = Outcome("food/coarse", keys, ("b",) * 400, right)  # of the same images: it adds nothing new
    differing = Outcome("cars", keys, ("b",) * 400, right)
    width = {
        name: np.diff(average_row("s", [[one, two]])["interval"])[0]
        for name, two in (("same", same), ("apart", differing))
    }
    assert width["same"] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert width["apart"] == pytest.approx(width["same"] / 2**0.5, rel=0.1)


def score(value: float, *, lower: bool, by_seed: tuple[float, ...] = ()) -> LayerScore:
    draws = value + np.random.default_rng(0).normal(size=50) / 100
    unit = "m" if lower else "%"
    fields = {"value": value, "draws": draws, "blocks": 30, "by_seed": by_seed}
    return LayerScore(name="x", n=9, pool="tokens", unit=unit, lower_is_better=lower, **fields)


def test_a_smaller_error_is_a_gain() -> None:
    row = gain(score(0.3, lower=True), score(0.5, lower=True))
    assert (row["unit"], row["value"], row["blocks"]) == ("m", 0.2, 30) and 0 < row["standard_error"] < 0.02
    assert gain(score(0.3, lower=False), score(0.5, lower=False))["value"] == -0.2


def test_only_a_significant_difference_is_bold() -> None:
    gap = Gap(value=0.02, unit="%", parts=((0.005**2, 99),))
    assert format_gap(gap, 1) == "**2.0 points (1.0 to 3.0 points)**"
    assert format_gap(gap) == "2.0 points (1.0 to 3.0 points)"
    assert format_gap(Gap(value=0.02, unit="%")) == "2.0 points" and format_gap(None) == ""


def test_the_more_differences_the_fewer_claims() -> None:
    gap = Gap(value=-0.012, unit="%", parts=((0.005**2, 99),))  # p is 0.018
    unknown = Gap(value=9, unit="%")
    assert find_signs({"a": gap}) == {"a": -1}
    assert find_signs({"a": gap, "b": unknown, "c": unknown}) == {"a": 0, "b": 0, "c": 0}
    assert find_signs({"a": Gap(value=-0.012, unit="%", parts=gap.parts, choices=3)}) == {"a": 0}
    clear = Gap(value=0.1, unit="%", parts=gap.parts)
    assert find_signs({"a": gap, "b": clear}) == {"a": -1, "b": 1}


def test_the_effect_of_seeds_is_pooled_or_the_pairs_own_if_that_is_larger() -> None:
    row = {"value": 0.05, "standard_error": 0.01, "blocks": 101}
    agree, others = (0.2, 0.2), [(0.1, 0.14), (0.3, 0.3)]
    gap = to_gap(row, agree, (0.15, 0.15), [agree, (0.15, 0.15), *others])
    pooled = 0.0008 / 4  # a variance of 0.0008 and three of 0, over four degrees of freedom
    assert gap.parts[0] == (pytest.approx(0.01**2), 100) and gap.parts[1] == (pytest.approx(pooled), 4)
    one_side = to_gap(row, agree, (), [agree, *others])
    assert one_side.parts[1] == (pytest.approx(0.0008 / 3 / 2), 3)
    separate = to_gap(row, (0.1, 0.3), (0.15, 0.15), [(0.1, 0.3), (0.15, 0.15), *others])
    assert separate.parts[1][0] == pytest.approx(0.02 / 2)
    assert to_gap(row).parts == (gap.parts[0],)
    assert not to_gap(row, (0.2,), (0.15,), [(0.2,), (0.15,)]).parts  # one seed
    assert not to_gap({**row, "standard_error": None}).parts and not to_gap({**row, "standard_error": 0.0}).parts


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


COMMAND = "run: python -m experiments.builtin docs/results/builtin.json"


def read_result(root: Path) -> Result:
    path = root / "docs" / "results" / "builtin.json"
    return from_json(path.read_text(encoding="utf-8"), path.name)


def test_the_model_card_shows_the_same_results(root: Path) -> None:
    card = (root / "perception_encoder" / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == update_card(card, read_result(root)), f"{COMMAND} perception_encoder/weights/MODEL_CARD.md"


def accuracy(task: str, value: float, transform: str = "squash") -> Score:
    label = {"task": task, "method": "zero-shot", "transform": transform, "prompts": "photo", "classes": 4}
    return Score(name="mean class accuracy", value=value, interval=(value - 0.02, value + 0.01), n=1649, **label)


def test_a_task_has_its_target_by_the_better_transform() -> None:
    scores = accuracy("flowers", 0.73), accuracy("flowers", 0.83, "crop"), accuracy("clothing", 0.399)
    result = Result(model=DEMO, split="test", scores=scores, failures=(), about={"weights": "abc"})
    classification, _ = compare_with_targets(result)
    assert [(row[0], row[-1]) for row in classification.rows] == [("flowers", "82 open"), ("clothing", "58 ✗")]
    better = replace(result, scores=(accuracy("flowers", 0.9, "crop"),))
    assert compare_with_targets(better)[0].rows[0][-1] == "82 ✓"
    with pytest.raises(DataError, match="the card needs the lines"):
        update_card("# Card\n", result)
