"""Linear probe and k-NN against scikit-learn, by hand, and on splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.probes import STRENGTHS, NeighboursEvaluator, fit_probe, vote
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.embeddings import Features
from perception_encoder.evaluation.results import evaluate
from tests.evaluation.colours import ColourEncoder, image_bytes, unit

CLASSES = ("a", "b", "c")


def cloud(counts: dict[str, int], spread: float, seed: int, dimensions: int = 12) -> Features:
    """Unit vectors around a direction for each class."""
    generator = np.random.default_rng(seed)
    labels = tuple(name for name, count in counts.items() for _ in range(count))
    centres = np.eye(dimensions)[[CLASSES.index(label) for label in labels]]
    vectors = centres + spread * generator.standard_normal((len(labels), dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Features(vectors.astype(np.float32), tuple(map(str, range(len(labels)))), labels)


def test_a_strength_that_does_not_converge_is_compared_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in tests."""
    monkeypatch.setattr("perception_encoder.evaluation.classification.probes.ITERATIONS", 1)
    train, val = (cloud(dict.fromkeys(CLASSES, 20), 0.5, seed) for seed in range(2))
    assert fit_probe(train, val, CLASSES, strengths=[1e3, 1e4]).strength in (1e3, 1e4)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_it_agrees_with_scikit_learn(classes: tuple[str, ...]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = cloud(dict(zip(classes, (50, 20, 9), strict=False)), 0.5, 0)
    test = cloud(dict.fromkeys(classes, 60), 0.5, 1)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    oracle.fit(train.vectors, train.targets(classes))
    probe = fit_probe(train, test, classes, strengths=[0.1])
    assert np.mean(probe.classify(test.vectors) == oracle.predict(test.vectors)) > 0.98
    exponentials = np.exp(probe.scores(test.vectors) / (2 if len(classes) == 2 else 1))  # plus and minus its one row
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities, oracle.predict_proba(test.vectors), atol=0.01)


def test_the_strength_is_the_best_on_val() -> None:
    train = cloud(dict.fromkeys(CLASSES, 8), 0.8, 0)
    val = cloud(dict.fromkeys(CLASSES, 300), 0.8, 1)
    scores = {}
    for strength in STRENGTHS:
        predicted = fit_probe(train, val, CLASSES, [strength]).classify(val.vectors)
        scores[strength] = (predicted == val.targets(CLASSES)).mean()  # classes are equally frequent
    assert len(set(scores.values())) > 1 and list(scores) == pytest.approx(np.logspace(-3, 2, 6))
    assert fit_probe(train, val, CLASSES).strength == max(scores, key=lambda strength: scores[strength])


def test_a_class_without_training_images_is_never_named() -> None:
    train, val = cloud({"a": 9, "c": 9}, 0.1, 0), cloud({"a": 9, "b": 9, "c": 9}, 0.1, 1)
    assert 1 not in fit_probe(train, val, CLASSES).classify(val.vectors)


# ---- k-NN


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


def test_a_task_is_measured_for_each_k_and_transform() -> None:
    def images(name: str, shade: int, count: int) -> LabelledImages:
        labels = ("red", "green", "blue") * count
        keys = tuple(f"{name}{row}" for row in range(len(labels)))
        return LabelledImages("toys", keys, tuple(image_bytes(item, shade) for item in labels), labels)

    splits = Splits(train=images("a", 0, 4), val=images("b", 20, 1), test=images("c", 30, 1))
    models = {"squash": ColourEncoder(), "crop": ColourEncoder()}
    result = [item for item in evaluate([NeighboursEvaluator(splits, (1, 3))], models) if item.name == "top-1"]
    assert [item.key for item in result] == [("toys", f"{k}-NN", name, "") for name in models for k in (1, 3)]
    assert [(item.value, item.n, item.settings["train"]) for item in result] == [(1.0, 3, "15")] * 4
    few = replace(splits, val=splits.val.select([]))
    assert next(NeighboursEvaluator(few, (1,)).run(ColourEncoder())).settings["train"] == "12"
