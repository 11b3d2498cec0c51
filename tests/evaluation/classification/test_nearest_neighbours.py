"""k-NN against scikit-learn, by hand, and on splits."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.classification.probes import NeighboursEvaluator, vote
from perception_encoder.evaluation.classification.splits import Splits, hold_out
from perception_encoder.evaluation.results import evaluate
from tests.evaluation.colours import ColourEncoder, image_bytes, unit


def test_votes_weigh_by_similarity() -> None:
    train = unit(np.array([(1, 0), (0.8, 0.6), (0.8, -0.6)], dtype=np.float32))
    query = np.array([(1, 0)], dtype=np.float32)
    targets = np.array([1, 0, 0])
    assert vote(train, targets, query, 1).tolist() == [1]
    assert vote(train, targets, query, 3).tolist() == [1]  # exp(0.2 / 0.07) is 17 times a vote
    assert vote(train, targets, query, 3, temperature=10.0).tolist() == [0]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_vote_is_scikit_learns(k: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(k)
    targets = rng.integers(0, 4, 200)
    centres = rng.standard_normal((4, 8))
    train, queries = (
        unit(centres[which] + 2 * rng.standard_normal((len(which), 8))).astype(np.float32)
        for which in (targets, rng.integers(0, 4, 100))
    )
    oracle = neighbors.KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = oracle.fit(train, targets).predict(queries)
    np.testing.assert_array_equal(vote(train, targets, queries, k), expected)


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_within_the_training_items(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k is {k}; it must be at least 1 and at most 3"):
        vote(np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32), k)


def images(name: str, labels: list[str], shade: int, broken: int = -1) -> LabelledImages:
    result = tuple(b"?" if i == broken else image_bytes(label, shade + i) for i, label in enumerate(labels))
    return LabelledImages("toys", tuple(f"{name}{i}" for i in range(len(labels))), result, tuple(labels))


COLOURS = ["red", "green", "blue"]


def test_a_task_is_measured_for_each_k_and_transform() -> None:
    splits = Splits(train=images("a", COLOURS * 4, 0), val=images("b", COLOURS, 20), test=images("c", COLOURS, 30, 1))
    models = {"squash": ColourEncoder(), "crop": ColourEncoder()}
    result = evaluate([NeighboursEvaluator(splits, (1, 3))], models)
    assert [m.label for m in result] == [("toys", f"{k}-NN", transform, "") for transform in models for k in (1, 3)]
    assert [(m.metrics[1].value, m.metrics[1].n, m.settings["train"]) for m in result] == [(1.0, 2, "15")] * 4
    assert [[failure.source for failure in m.failures] for m in result] == [["c1"]] * 4


def test_val_may_be_empty() -> None:
    splits = Splits(train=images("a", COLOURS, 0), val=images("b", [], 0), test=images("c", COLOURS, 30))
    (result,) = NeighboursEvaluator(splits, (1,)).run(ColourEncoder())
    assert (result.metrics[1].value, result.settings["train"]) == (1.0, "3")


def test_a_tenth_is_held_out_always_the_same() -> None:
    train, test = images("a", COLOURS * 10, 0), images("c", COLOURS, 30)
    splits = hold_out(train, test)
    assert (len(splits.train.keys), len(splits.val.keys)) == (27, 3)
    assert {*splits.train.keys, *splits.val.keys} == set(train.keys)
    assert hold_out(train, test) == splits
    with pytest.raises(DataError, match="has 9 training items; at least 10 are needed"):
        hold_out(images("a", COLOURS * 3, 0), test)
