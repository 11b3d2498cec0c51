"""Classify frozen features without training the encoder: a linear probe and k-NN (section 2.5).

Every class has the same total weight in the probe. The vote of k-NN is DINO's: the k most similar training items, each
with the weight exp(similarity / 0.07).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception_encoder.errors import ConfigError, needs_extra
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import accuracies, highest, ranked_classes
from perception_encoder.evaluation.embeddings import Embeddings, Features
from perception_encoder.evaluation.statistics.scores import Label, Score, measure_all
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse regularisation C to try, on standardised features."""
ITERATIONS = 300


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe."""

    weight: np.ndarray  # (K, D)
    bias: np.ndarray  # (K,)
    strength: float  # the chosen C

    def classify(self, vectors: np.ndarray) -> np.ndarray:
        """Return the index of the most probable class for each vector: (n, D) to (n,)."""
        return self.scores(vectors).argmax(axis=1)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the logarithm of each class's probability, up to a constant: (n, D) to (n, K)."""
        return vectors @ self.weight.T + self.bias


def fit_probe(
    train: Features, val: Features, classes: Sequence[str], strengths: Sequence[float] = STRENGTHS
) -> LinearProbe:
    """Fit with each strength and return the probe that is best on `val`; ties go to the smallest.

    `MissingExtraError` without scikit-learn.
    """
    targets, val_targets = train.targets(classes), val.targets(classes)
    probes = [_fit(train.vectors, targets, len(classes), strength) for strength in strengths]
    scores = [mean_class_accuracy(probe.classify(val.vectors), val_targets) for probe in probes]
    return probes[int(np.argmax(scores))]


@dataclass(frozen=True)
class LinearEvaluator:
    """Classification by a linear probe, fitted on `train` with the strength that is best on `val`."""

    splits: Splits

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield mean class accuracy, top-1 and perhaps top-5; errors as those of `fit_probe`, and see `Evaluator`."""
        splits, classes = self.splits, self.splits.classes
        train, val, test = (source.images(part, track) for part in (splits.train, splits.val, splits.test))
        probe = fit_probe(train, val, classes)
        label = Label(
            task=splits.test.name,
            method="linear probe",
            classes=len(classes),
            settings={"C": f"{probe.strength:g}", "train": f"{len(train.keys):,}"},
            failures=train.failures + val.failures + test.failures,
        )
        ranked = highest(probe.scores(test.vectors), ranked_classes(classes))
        yield from measure_all(accuracies(ranked, test.keys, test.labels, classes), label)


def _fit(vectors: np.ndarray, targets: np.ndarray, classes: int, strength: float) -> LinearProbe:
    """Fit logistic regression on standardised vectors and return it in terms of the original vectors."""
    with needs_extra("eval", "scikit-learn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    regression = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest need not converge to be compared
        regression.fit((vectors - mean) / deviation, targets)
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, -np.inf)
    rows, coefficients, offset = regression.classes_, regression.coef_, regression.intercept_
    if len(rows) == 2:  # scikit-learn keeps one row for two classes: the log-odds, half of which are for each
        coefficients, offset = (np.concatenate([-odds, odds]) / 2 for odds in (coefficients, offset))
    weight[rows] = coefficients / deviation
    bias[rows] = offset - weight[rows] @ mean
    return LinearProbe(weight, bias, strength)


def mean_class_accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Return the accuracy averaged over the classes that occur; both arguments are class indices, (n,)."""
    return float(np.mean([(predicted[targets == index] == index).mean() for index in np.unique(targets)]))


TEMPERATURE = 0.07
K = 20
CHUNK = 1024  # items that are looked up at a time


def vote(train: np.ndarray, targets: np.ndarray, vectors: np.ndarray, k: int = K) -> np.ndarray:
    """Return the index of the class with the most votes for each vector, (n,); ties go to the first class.

    Args:
        train, targets: Unit vectors (m, D) and their classes (m,).
        vectors: Unit, (n, D).
        k: Number of voters, from 1 to m; ConfigError for another.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"k is {k}; it must be at least 1 and at most {len(train)}, the number of training items")
    known, labels = torch.from_numpy(train).T.contiguous(), torch.from_numpy(targets)
    classes = int(targets.max()) + 1
    winners = []
    for chunk in torch.from_numpy(vectors).split(CHUNK):
        similarity, nearest = (chunk @ known).topk(k, dim=1)  # (n, k)
        weights = ((similarity.double() - similarity[:, :1]) / TEMPERATURE).exp()  # the best one's weight is 1
        votes = torch.zeros(len(chunk), classes, dtype=torch.float64).scatter_add_(1, labels[nearest], weights)
        winners.append(votes.argmax(dim=1))
    return torch.cat(winners).numpy()


@dataclass(frozen=True)
class NeighboursEvaluator:
    """Classification by the votes of the most similar training items."""

    splits: Splits
    """The neighbours come from `train` and `val` together; `val` may be empty."""
    ks: Sequence[int] = (K,)

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield mean class accuracy, top-1 for each k; raises the errors of `vote`, and see `Evaluator`."""
        splits, classes = self.splits, self.splits.classes
        known = [source.images(part, track) for part in (splits.train, splits.val) if part.keys]
        test = source.images(splits.test, track)
        train = np.concatenate([part.vectors for part in known])
        targets = np.concatenate([part.targets(classes) for part in known])
        for k in self.ks:
            label = Label(
                task=splits.test.name,
                method=f"{k}-NN",
                classes=len(classes),
                settings={"temperature": f"{TEMPERATURE:g}", "train": f"{len(train):,}"},
                failures=tuple(failure for part in (*known, test) for failure in part.failures),
            )
            predicted = vote(train, targets, test.vectors, k)
            yield from measure_all(accuracies(predicted, test.keys, test.labels, classes), label)
