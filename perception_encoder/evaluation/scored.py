"""Figures of any kind over items, with bootstrap intervals that pair.

A figure is a function of how often each item counts: the mean of what items got, an overlap summed over pictures, an
average precision over all detections. So one way of drawing serves all of them. The draws hang on the items' number
and a seed alone: two models' figures on the same items are drawn together, and the interval of their difference is
that of the drawn differences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.metrics import INTERVAL, RESAMPLES
from perception_encoder.evaluation.protocol import Metric

SEED = 0

Figure = Callable[[np.ndarray], np.ndarray]
"""How often each item counts, (R, n), to the figure of each row, (R,); NaN where a row has none."""


@dataclass(frozen=True)
class Scored:
    """A task's items, what each of them got, and the figures that they make."""

    keys: tuple[str, ...]
    """The items' names: pictures, or videos."""
    items: Mapping[str, np.ndarray]
    """By figure, what each item got by itself (n,), NaN where it got none."""
    figures: Mapping[str, Figure]
    failures: tuple[InputError, ...] = ()
    """Items that could not be decoded; they are in no figure."""

    def value(self, figure: str) -> float:
        """A figure, every item counted once."""
        return float(self.figures[figure](np.ones((1, len(self.keys))))[0])

    def metrics(self, resamples: int = RESAMPLES) -> tuple[Metric, ...]:
        """Every figure with its interval."""
        return tuple(self._metric(name, self.figures[name], self.value(name), resamples) for name in self.figures)

    def difference(self, figure: str, other: Scored, resamples: int = RESAMPLES) -> Metric:
        """This one's figure less another's, with the interval of that; DataError unless the items are the same."""
        if self.keys != other.keys:
            raise DataError(f"{figure}: the two were not measured on the same items, so they cannot be compared")
        ours, theirs = self.figures[figure], other.figures[figure]
        value = self.value(figure) - other.value(figure)
        return self._metric(figure, lambda counts: ours(counts) - theirs(counts), value, resamples)

    def _metric(self, name: str, figure: Figure, value: float, resamples: int) -> Metric:
        drawn = figure(draw(len(self.keys), resamples))
        low, high = np.nanpercentile(drawn, INTERVAL) if np.isfinite(drawn).any() else (np.nan, np.nan)
        return Metric(name, value, len(self.keys), (float(low), float(high)))


def draw(n: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of n items is drawn, (resamples, n) float64: the same numbers each time."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def mean_of(values: np.ndarray, parts: np.ndarray | None = None) -> Figure:
    """The mean of `values` (n,), where an item is a sum of `parts` (n,) things; NaN where nothing is drawn."""
    over = np.ones(len(values)) if parts is None else parts

    def figure(counts: np.ndarray) -> np.ndarray:
        total = counts @ over
        return np.divide(counts @ values, total, out=np.full(len(counts), np.nan), where=total > 0)

    return figure
