"""The generated pages are those that their JSON makes, and the figures come out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.data.labelled import load_labelled
from perception_encoder.evaluation.classification import accuracies, classify
from perception_encoder.evaluation.features import encode_pictures
from perception_encoder.evaluation.prompts import PROMPTS, ensemble
from perception_encoder.evaluation.report import from_json, insert_figures, page
from perception_encoder.evaluation.results import Result
from perception_encoder.evaluation.scores import measure
from perception_encoder.inference.encoder import load
from perception_encoder.models.registry import BUILTIN


def read_result(root: Path) -> Result:
    path = root / "docs" / "results" / "builtin.json"
    return from_json(path.read_text(encoding="utf-8"), path.name)


def test_the_page_is_the_one_its_json_makes(root: Path) -> None:
    result = read_result(root)
    assert (result.model, result.split) == (BUILTIN, "test")
    written = (root / "docs" / "results" / "builtin.md").read_text(encoding="utf-8")
    assert written == page(result, "builtin.json"), "run: pe eval page docs/results/builtin.json"


def test_the_model_card_shows_the_same_figures(root: Path) -> None:
    card = (root / "perception_encoder" / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card == insert_figures(card, read_result(root)), "run: pe eval page docs/results/builtin.json --card …"


def test_the_figures_come_out_again(root: Path, real_data: Path) -> None:
    encoder = load("builtin")
    task = load_labelled(real_data / "photos")["flowers"]
    features = encode_pictures(encoder, task)
    predicted = classify(features.vectors, ensemble(encoder, task.classes, PROMPTS["photo"]))
    measured = map(measure, accuracies(predicted, features, task.classes))
    result = read_result(root)
    assert result.about["weights"] == encoder.weight_hash
    (listed,) = (
        m.metrics for m in result.measurements if (m.task, m.transform, m.prompts) == ("flowers", "squash", "photo")
    )
    for here, there in zip(measured, listed, strict=True):
        assert (here.name, here.n) == (there.name, there.n)
        assert here.value == pytest.approx(there.value, abs=0.01)  # bfloat16 there, perhaps not here
