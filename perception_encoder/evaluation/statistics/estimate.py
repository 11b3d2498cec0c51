"""What a figure owes to chance: the blocks that were scored, and the seeds of the heads that were fitted for it.

A block is what is drawn at random as a whole: an image, a video with all its frames, an RGB-D sequence. Many blocks
without a fitted head give the percentiles of a bootstrap. A bootstrap over few blocks is too narrow (over five it makes
16 % false claims in place of 5 %), and three seeds cannot be drawn anew at all; so there the two variances are added,
and the interval is Student's t with the degrees of freedom of Welch and Satterthwaite. One block, or one seed of a
fitted head, says nothing of chance: there is no interval then, and nothing can be claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.evaluation.statistics.resampling import INTERVAL

FEW_BLOCKS = 20
"""Below this many the percentiles of a bootstrap are too narrow."""
_ROUNDING = 1e-9
"""Draws of a share that differ by less are the same."""
_LEVEL = (INTERVAL[1] - INTERVAL[0]) / 100

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Metric:
    """A measured figure."""

    name: str
    value: float
    """With the unit "%": a share, in [0, 1], or a difference of two."""
    n: int
    """How many items it was measured on."""
    ci: Interval
    """95 % confidence interval; None where there is none to be had, of one block or one seed of a fitted head."""
    unit: str = "%"
    """Of the value; "m" for metres, empty for a plain number."""
    lower_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One figure, or the difference of two."""

    value: float
    """The mean over the seeds."""
    drawn: Float[np.ndarray, " R"]
    """The mean over the seeds on blocks drawn anew; NaN where a draw has no such figure."""
    blocks: int
    by_seed: tuple[float, ...] = ()
    """The figure with each seed of a fitted head; empty where nothing is fitted from random weights."""

    def less(self, other: Estimate) -> Estimate:
        """This less another of the same draws, paired by block and by seed; DataError where they do not pair."""
        ours, theirs = ((len(each.drawn), each.blocks, len(each.by_seed)) for each in (self, other))
        if ours != theirs:
            raise DataError(
                f"draws, blocks and head seeds differ: {ours} and {theirs}; evaluate both with the same data and seeds"
            )
        return Estimate(
            value=self.value - other.value,
            drawn=self.drawn - other.drawn,
            blocks=self.blocks,
            by_seed=tuple(one - two for one, two in zip(self.by_seed, other.by_seed, strict=True)),
        )

    def interval(self, comparisons: int = 1) -> Interval:
        """The 95 % interval, None where there is one block or one seed.

        `comparisons`: how many intervals are to hold at once (Bonferroni).
        """
        drawn = self.drawn[np.isfinite(self.drawn)]
        if self.blocks < 2 or len(self.by_seed) == 1 or not len(drawn):
            return None
        if self.blocks >= FEW_BLOCKS and not self.by_seed and comparisons == 1:
            low, high = np.percentile(drawn, INTERVAL)
            return float(low), float(high)
        of_blocks = float(np.var(drawn)) * self.blocks / (self.blocks - 1)
        return student_interval(self.value, of_blocks, self.blocks, self.by_seed, comparisons)

    def metric(self, name: str, n: int, unit: str = "%", lower_is_better: bool = False) -> Metric:
        """The figure with its interval; not for a difference, because a share ("%") stays within 0 and 1.

        A share that is the same in all draws has no interval: that its items agree does not make it certain.
        """
        ends = self.interval()
        if ends is not None and unit == "%":
            certain = np.ptp(self.drawn[np.isfinite(self.drawn)]) < _ROUNDING
            ends = None if certain else (max(0.0, ends[0]), min(1.0, ends[1]))
        return Metric(name, self.value, n, ends, unit, lower_is_better)


def student_interval(
    value: float, of_blocks: float, blocks: int, by_seed: Sequence[float], comparisons: int = 1
) -> Interval:
    """Student's interval from the variance that `value` has over blocks, and its values with several seeds.

    None for one block and for one seed.
    """
    if blocks < 2 or len(by_seed) == 1:
        return None
    parts = [(of_blocks, blocks - 1)]
    if by_seed:
        parts.append((float(np.var(by_seed, ddof=1)) / len(by_seed), len(by_seed) - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return value, value
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    return student_ends(value, variance, freedom, comparisons)


def student_ends(value: float, variance: float, freedom: float, comparisons: int = 1) -> tuple[float, float]:
    """The ends of Student's interval with these degrees of freedom."""
    width = _quantile(1 - (1 - _LEVEL) / (2 * comparisons), freedom) * variance**0.5
    return value - width, value + width


def check_scipy() -> None:
    """Raise MissingExtraError where Student's t cannot be computed, before anything is fitted."""
    _quantile(0.5, 1.0)


def _quantile(probability: float, freedom: float) -> float:
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    return float(t.ppf(probability, freedom))
