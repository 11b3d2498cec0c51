"""Figures with bootstrap intervals, out of which items were right.

The mean class accuracy resamples within each class, so that every class stays in every resample. Drawing n items
of which a share p is right, with replacement, is drawing from a binomial distribution, which is what is done.
"""

from __future__ import annotations

import numpy as np

from perception_encoder.evaluation.protocol import Metric

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


def share(name: str, correct: np.ndarray, generator: np.random.Generator) -> Metric:
    """The share of items that are right; `correct` is bool (n,)."""
    value = float(correct.mean())
    resampled = generator.binomial(len(correct), value, RESAMPLES) / len(correct)
    return Metric(name, value, len(correct), _interval(resampled))


def mean_class_accuracy(correct: np.ndarray, targets: np.ndarray, generator: np.random.Generator) -> Metric:
    """The share that is right within each class, averaged over the classes that occur.

    `correct`: bool (n,); `targets`: the items' classes, int (n,).
    """
    _, classes, counts = np.unique(targets, return_inverse=True, return_counts=True)
    shares = np.bincount(classes, weights=correct) / counts  # (K,)
    resampled = generator.binomial(counts, shares, (RESAMPLES, len(counts))) / counts
    return Metric("mean class accuracy", float(shares.mean()), len(correct), _interval(resampled.mean(axis=1)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)
