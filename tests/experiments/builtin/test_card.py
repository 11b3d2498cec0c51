"""The built-in model's card shows its JSON, next to the targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.builtin.__main__ import builtin
from experiments.builtin.card import compare_with_targets, update_card
from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Result, from_json
from tests.evaluation.test_results import RESULT

COMMAND = "run: python -m experiments.builtin docs/results/builtin.json"


def read_result(root: Path) -> Result:
    path = root / "docs" / "results" / "builtin.json"
    return from_json(path.read_text(encoding="utf-8"), path.name)


def test_the_model_card_shows_the_same_results(root: Path) -> None:
    card = (root / "perception_encoder" / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == update_card(card, read_result(root)), f"{COMMAND} perception_encoder/weights/MODEL_CARD.md"


def test_a_task_has_its_target_by_the_better_transform_and_once() -> None:
    classification, retrieval = compare_with_targets(RESULT)
    assert classification.columns[-1] == retrieval.columns[-1] == "target"
    assert [(row[0], row[-1]) for row in classification.rows] == [
        ("flowers", "82 open"),  # 83 ±1.5
        ("clothing", "58 ✗"),
        ("caltech101/unseen", "20 open"),
    ]
    better = tuple(
        replace(score, value=0.9, interval=(0.885, 0.915))
        if (score.task, score.name) == ("flowers", "mean class accuracy")
        else score
        for score in RESULT.scores
    )
    assert compare_with_targets(replace(RESULT, scores=better))[0].rows[0][-1] == "82 ✓"
    assert [row[-1] for row in retrieval.rows] == ["40 ✗"]
    (openmoji,) = (score for score in RESULT.scores if score.task == "openmoji")
    both = (openmoji, replace(openmoji, name="name of image R@1"))
    assert [row[-1] for row in compare_with_targets(replace(RESULT, scores=both))[1].rows] == ["40 ✗", "–"]


def test_a_card_takes_new_results_and_keeps_the_rest() -> None:
    card = "# Card\n<!-- figures -->\nold\n<!-- end of figures -->\nLimits.\n"
    updated = update_card(card, RESULT)
    assert updated.startswith("# Card\n<!-- figures -->\n") and updated.endswith("<!-- end of figures -->\nLimits.\n")
    assert "old" not in updated and "73.0 ±1.5" in updated
    assert update_card(updated, RESULT) == updated
    with pytest.raises(DataError, match="the card needs the lines"):
        update_card("# Card\n", RESULT)


def test_the_command_writes_the_card(root: Path, tmp_path: Path) -> None:
    card = tmp_path / "CARD.md"
    card.write_text("<!-- figures -->\n<!-- end of figures -->\n", encoding="utf-8")
    builtin(root / "docs" / "results" / "builtin.json", card)
    assert "| openmoji |" in card.read_text(encoding="utf-8")
