"""A linear probe: logistic regression on frozen features (section 2.5).

It is fitted on the train split, every class with the same weight in all; its strength C is the one that gives the
best mean class accuracy on the val split.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.errors import InputError, MissingExtraError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import TOP, accuracies, nearest
from perception_encoder.evaluation.features import FRAMES, Features, encode_pictures
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import measure
from perception_encoder.models.protocols import ImageEncoder
from perception_encoder.progress import Track, untracked

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
        return self.scores(vectors).argmax(axis=1)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """The logarithm of each class's probability, but for a constant: (n, D) to (n, K)."""
        return vectors @ self.weight.T + self.bias


def fit_probe(
    train: Features, val: Features, classes: Sequence[str], strengths: Sequence[float] = STRENGTHS
) -> LinearProbe:
    """Fit on `train`, choose among `strengths` on `val`; on a tie the smallest.

    `MissingExtraError` without scikit-learn.
    """
    targets, val_targets = train.targets(classes), val.targets(classes)
    probes = [_fit(train.vectors, targets, len(classes), strength) for strength in strengths]
    scores = [mean_class_accuracy(probe.classify(val.vectors), val_targets) for probe in probes]
    return probes[int(np.argmax(scores))]


def measure_linear(
    encoders: Mapping[str, ImageEncoder], splits: Splits, track: Track = untracked, frames: int = FRAMES
) -> tuple[list[Measurement], tuple[InputError, ...]]:
    """Measure a task by a linear probe under each transform; and what cannot be decoded, training items included.

    Errors as those of `fit_probe` and `encode_pictures`.
    """
    measurements: list[Measurement] = []
    failures: tuple[InputError, ...] = ()
    classes = splits.classes
    for transform, encoder in encoders.items():
        parts = [encode_pictures(encoder, part, track, frames) for part in (splits.train, splits.val, splits.test)]
        failures = tuple(failure for part in parts for failure in part.failures)
        probe = fit_probe(parts[0], parts[1], classes)
        ranked = nearest(probe.scores(parts[2].vectors), TOP if len(classes) > TOP else 1)
        scores = accuracies(ranked, parts[2], classes)
        label = (splits.test.name, "linear probe", transform, "", len(classes))
        settings = {"C": f"{probe.strength:g}", "train": f"{len(parts[0].keys):,}"}
        measurements.append(Measurement(*label, tuple(map(measure, scores)), settings, scores))
    return measurements, failures


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


def mean_class_accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    """The share of each class that is right, averaged over the classes that occur; both are places, (n,)."""
    return float(np.mean([(predicted[targets == place] == place).mean() for place in np.unique(targets)]))
