"""The published results of the built-in model come out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.labelled import load_labelled
from perception_encoder.evaluation.classification.zero_shot import FEW, ZeroShotClassifier, accuracies
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.results import Result, from_json
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.inference.load import load


def read_result(root: Path) -> Result:
    path = root / "docs" / "results" / "builtin.json"
    return from_json(path.read_text(encoding="utf-8"), path.name)


def test_the_intervals_are_those_of_the_stored_scores_by_the_rule_of_accuracies(root: Path) -> None:
    few = 0
    for listed in read_result(root).scores:
        (scores,) = listed.items
        assert isinstance(scores, ItemScores)
        _, _, groups, weights = scores.entries()
        if scores.metric == "mean class accuracy":
            sizes = np.bincount(groups) if scores.groups else 1 / weights
            assert (sizes.min() >= FEW) == bool(scores.groups)
            few += not scores.groups
        outcome = measure(scores)
        assert outcome.value == pytest.approx(listed.value, abs=1e-6)
        assert outcome.interval == pytest.approx(listed.interval, abs=1e-6)
    assert few  # Caltech-101, its unseen classes, and clothing have classes of few items


def test_the_results_come_out_again(root: Path, real_data: Path) -> None:
    encoder = load("builtin")
    source = Embeddings(encoder)
    task = load_labelled(real_data / "photos")["flowers"]
    features = source.images(task)
    predicted = ZeroShotClassifier.of(source, task.classes, "photo").rank(features.vectors, 1)
    measured = map(measure, accuracies(predicted, features.keys, features.labels, task.classes))
    result = read_result(root)
    assert result.about["weights"] == encoder.weight_hash
    listed = [item for item in result.scores if item.key == ("flowers", "zero-shot", "squash", "photo")]
    for here, there in zip(measured, listed, strict=True):
        assert (here.name, here.n) == (there.name, there.n)
        assert here.value == pytest.approx(there.value, abs=0.01)  # bfloat16 there, perhaps not here
