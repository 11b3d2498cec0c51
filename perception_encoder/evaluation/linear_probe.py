"""A linear probe: logistic regression on frozen features (section 2.5).

It is fitted on the train split, every class with the same weight in all; its strength C is the one that gives the
best mean class accuracy on the val split.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.features import Features

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse regularisation C that is tried, on standardised features."""
ITERATIONS = 300


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe."""

    weight: np.ndarray
    """(K, D)."""
    bias: np.ndarray
    """(K,)."""
    strength: float
    """The C that was chosen."""

    def classify(self, vectors: np.ndarray) -> np.ndarray:
        """The place of the likeliest class for each vector: (n, D) to (n,)."""
        return (vectors @ self.weight.T + self.bias).argmax(axis=1)


def fit_probe(
    train: Features, val: Features, classes: Sequence[str], strengths: Sequence[float] = STRENGTHS
) -> LinearProbe:
    """Fit on `train`, choose among `strengths` on `val`; on a tie the smallest.

    `MissingExtraError` without scikit-learn.
    """
    targets, val_targets = train.targets(classes), val.targets(classes)
    probes = [_fit(train.vectors, targets, len(classes), strength) for strength in strengths]
    scores = [_mean_class_accuracy(probe.classify(val.vectors), val_targets) for probe in probes]
    return probes[int(np.argmax(scores))]


def _fit(vectors: np.ndarray, targets: np.ndarray, classes: int, strength: float) -> LinearProbe:
    """Logistic regression on standardised vectors, expressed for the vectors as they are."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    regression = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest regularisation need not converge to be judged
        regression.fit((vectors - mean) / deviation, targets)
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, -np.inf)
    rows, found, offset = regression.classes_, regression.coef_, regression.intercept_
    if len(rows) == 2:  # scikit-learn keeps one row for two classes
        found, offset = np.concatenate([-found, found]), np.concatenate([-offset, offset])
    weight[rows] = found / deviation
    bias[rows] = offset - weight[rows] @ mean
    return LinearProbe(weight, bias, strength)


def _mean_class_accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean([(predicted[targets == place] == place).mean() for place in np.unique(targets)]))
