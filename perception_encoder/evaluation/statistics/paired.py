"""Averages over several classification tasks, and paired differences of two models, with bootstrap intervals.

A picture's part in an average is the sum of what it adds to each task where it is right: 1 / (sets x tasks x classes x
pictures of its class). Pictures, not tasks, are drawn anew, within each source: one that serves several tasks or stands
changed in several sets is drawn in all of them together, and for both models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.estimate import Metric
from perception_encoder.evaluation.statistics.resampling import INTERVAL, RESAMPLES


@dataclass(frozen=True)
class Outcome:
    """Which pictures of a task a model got right."""

    task: str
    """Its source leads, before a `/`."""
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    right: np.ndarray
    """bool (n,)."""

    def parts(self) -> np.ndarray:
        """What each picture, if it is right, adds to the mean class accuracy, (n,)."""
        counts = Counter(self.labels)
        return np.array([1 / (len(counts) * counts[label]) for label in self.labels])


def average(name: str, sets: Sequence[Sequence[Outcome]], generator: np.random.Generator) -> Metric:
    """The mean over sets of the mean over a set's tasks of the mean class accuracy."""
    return _bootstrap(name, [[(o, o.right.astype(float)) for o in outcomes] for outcomes in sets], generator)


def difference(
    name: str,
    ours: Sequence[Sequence[Outcome]],
    theirs: Sequence[Sequence[Outcome]],
    generator: np.random.Generator,
) -> Metric:
    """`average` of ours less that of theirs; DataError unless both are of the same tasks and pictures."""
    if _items(ours) != _items(theirs):
        raise DataError(f"{name}: the two models were not measured on the same pictures, so they cannot be compared")
    pairs = [
        [(o, o.right.astype(float) - t.right) for o, t in zip(*both, strict=True)]
        for both in zip(ours, theirs, strict=True)
    ]
    return _bootstrap(name, pairs, generator)


def _items(sets: Sequence[Sequence[Outcome]]) -> list[list[tuple]]:
    return [[(o.task, o.keys, o.labels) for o in outcomes] for outcomes in sets]


def _bootstrap(
    name: str, sets: Sequence[Sequence[tuple[Outcome, np.ndarray]]], generator: np.random.Generator
) -> Metric:
    pictures: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for outcomes in sets:
        for outcome, values in outcomes:
            source = outcome.task.partition("/")[0]
            for key, part in zip(outcome.keys, outcome.parts() * values, strict=True):
                pictures[source][key] += part / (len(sets) * len(outcomes))
    drawn = np.zeros(RESAMPLES)
    for parts in pictures.values():
        counts = generator.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), RESAMPLES)
        drawn += counts @ np.array(list(parts.values()))
    total = sum(sum(parts.values()) for parts in pictures.values())
    low, high = np.percentile(drawn, INTERVAL)
    return Metric(name, float(total), sum(len(parts) for parts in pictures.values()), (float(low), float(high)))
