"""The probe: scikit-learn's logistic regression, its strength chosen on val."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.classification.probes import STRENGTHS, fit_probe
from perception_encoder.evaluation.embeddings import Features

CLASSES = ("a", "b", "c")


def cloud(counts: dict[str, int], spread: float, seed: int, dimensions: int = 12) -> Features:
    """Unit vectors around a direction for each class."""
    generator = np.random.default_rng(seed)
    labels = tuple(name for name, count in counts.items() for _ in range(count))
    centres = np.eye(dimensions)[[CLASSES.index(label) for label in labels]]
    vectors = centres + spread * generator.standard_normal((len(labels), dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Features(vectors.astype(np.float32), tuple(map(str, range(len(labels)))), labels)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_classes_that_are_apart_are_told_apart(classes: tuple[str, ...]) -> None:
    train, val, test = (cloud(dict.fromkeys(classes, 20), 0.1, seed) for seed in range(3))
    probe = fit_probe(train, val, classes)
    assert (probe.classify(test.vectors) == test.targets(classes)).all()


def test_a_strength_that_does_not_converge_is_compared_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors in tests."""
    monkeypatch.setattr("perception_encoder.evaluation.classification.probes.ITERATIONS", 1)
    train, val = (cloud(dict.fromkeys(CLASSES, 20), 0.5, seed) for seed in range(2))
    assert fit_probe(train, val, CLASSES, strengths=[1e3, 1e4]).strength in (1e3, 1e4)


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = cloud({"a": 50, "b": 20, "c": 9}, 0.5, 0), cloud(dict.fromkeys(CLASSES, 60), 0.5, 1)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    oracle.fit(train.vectors, train.targets(CLASSES))
    probe = fit_probe(train, test, CLASSES, strengths=[0.1])
    exponentials = np.exp(probe.scores(test.vectors))
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


def test_without_scikit_learn_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    both = cloud(dict.fromkeys(CLASSES, 3), 0.1, 0)
    with pytest.raises(MissingExtraError, match=r"\[eval\]"):
        fit_probe(both, both, CLASSES)
