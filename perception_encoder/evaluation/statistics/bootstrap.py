"""Estimate the uncertainty of a metric from resampled blocks of items and from the seeds of its fitted heads.

A block is resampled as a whole: an image, a video with all its frames, an RGB-D sequence. For many blocks without a
fitted head the interval is the percentiles of a bootstrap. A bootstrap over few blocks is too narrow (over five it
makes 16 % false claims in place of 5 %), and three seeds cannot be resampled at all; so there each of the two variances
is multiplied by the square of its own Student's t, and the interval's half width is the root of their sum (Banerjee,
1960): it holds the value in at least 95 % of cases, where Welch and Satterthwaite's degrees of freedom give 88 to 95 %
for two seeds. Where many differences are compared, a claim needs a p-value that is small after Holm's correction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import DataError, needs_extra

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
"""Lower and upper end of an interval."""
FEW_BLOCKS = 20
"""With fewer blocks, bootstrap percentiles are too narrow."""
_ROUNDING = 1e-9
"""Shares in two resamples that differ by less count as equal."""
_AT_ONCE = 1_000_000  # items resampled at a time, all resamples of a batch together

SIGNIFICANT = 2 * PERCENTILES[0] / 100
"""Maximum p-value for a claim, corrected for the number of comparisons."""
_LEAST = 1e-12
"""Minimum p-value that is distinguished from zero."""

Interval = tuple[float, float] | None
Variance = tuple[float, float]
"""A variance of a value with its estimate's degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of an evaluation."""

    name: str
    value: float
    """If the unit is "%", a share in [0, 1] or a difference of shares."""
    n: int
    """Number of items."""
    interval: Interval
    """95 % confidence interval; None for one block, or one seed of a fitted head."""
    unit: str = "%"
    """"%", "m" for metres, or empty for a plain number."""
    lower_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The value of a metric, or of a difference of two metrics, with its resamples."""

    value: float
    """The mean over the seeds."""
    draws: Float[np.ndarray, " R"]
    """The mean over the seeds in each resample; NaN if the metric is undefined there."""
    blocks: int
    by_seed: tuple[float, ...] = ()
    """The value for each seed of a fitted head; empty without random weights."""

    def less(self, other: Estimate) -> Estimate:
        """Subtract another estimate with the same draws, paired by block and by seed; DataError if they do not pair."""
        ours, theirs = ((len(item.draws), item.blocks, len(item.by_seed)) for item in (self, other))
        if ours != theirs:
            raise DataError(
                f"draws, blocks and head seeds differ: {ours} and {theirs}; evaluate both with the same data and seeds"
            )
        return Estimate(
            value=self.value - other.value,
            draws=self.draws - other.draws,
            blocks=self.blocks,
            by_seed=tuple(one - two for one, two in zip(self.by_seed, other.by_seed, strict=True)),
        )

    def interval(self, comparisons: int = 1) -> Interval:
        """Return the 95 % interval; None for one block or one seed.

        `comparisons`: how many intervals are to hold at once (Bonferroni).
        """
        parts = self.parts()
        if parts is None:
            return None
        if self.blocks >= FEW_BLOCKS and not self.by_seed and comparisons == 1:
            low, high = np.percentile(self.draws[np.isfinite(self.draws)], PERCENTILES)
            return float(low), float(high)
        return student_ends(self.value, parts, comparisons)

    def parts(self) -> list[Variance] | None:
        """Return the variances over blocks and over seeds; each None for one block or one seed."""
        of_blocks = self.of_blocks()
        if of_blocks is None or len(self.by_seed) == 1:
            return None
        parts = [(of_blocks, self.blocks - 1.0)]
        if self.by_seed:
            parts.append((float(np.var(self.by_seed, ddof=1)) / len(self.by_seed), len(self.by_seed) - 1.0))
        return parts

    def p_value(self) -> float:
        """Return the p-value of the value against zero; 1 without an interval."""
        parts = self.parts()
        return 1.0 if parts is None else p_value(self.value, parts)

    def of_blocks(self) -> float | None:
        """Return the variance of the value over blocks; None for one block."""
        draws = self.draws[np.isfinite(self.draws)]
        if self.blocks < 2 or not len(draws):
            return None
        return float(np.var(draws)) * self.blocks / (self.blocks - 1)

    def metric(self, name: str, n: int, unit: str = "%", lower_is_better: bool = False) -> Metric:
        """Return the estimate as a metric; invalid for a difference, because a share ("%") is limited to 0–1.

        A share that is the same in all resamples has no interval: that its items agree does not make it certain.
        """
        ends = self.interval()
        if ends is not None and unit == "%":
            certain = np.ptp(self.draws[np.isfinite(self.draws)]) < _ROUNDING
            ends = None if certain else (max(0.0, ends[0]), min(1.0, ends[1]))
        return Metric(name=name, value=self.value, n=n, interval=ends, unit=unit, lower_is_better=lower_is_better)


def resample(strata: Int[np.ndarray, " n"], seed: int, entries: int = 0) -> Iterator[Int[np.ndarray, "r n"]]:
    """Yield how often each of n blocks occurs in each of `RESAMPLES` resamples, some resamples at a time.

    `strata`: ints from 0; a block is replaced by one of its own stratum. `entries`: the most that a block set has.
    """
    count = len(strata)
    order = np.argsort(strata, kind="stable")
    _, index, sizes = np.unique(strata[order], return_inverse=True, return_counts=True)
    starts, sizes = (np.cumsum(sizes) - sizes)[index], sizes[index]
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // max(count, entries))
    for first in range(0, RESAMPLES, batch):
        rows = min(batch, RESAMPLES - first)
        chosen = order[starts + (generator.random((rows, count)) * sizes).astype(np.int64)]
        offsets = count * np.arange(rows)[:, None]
        yield np.bincount((chosen + offsets).ravel(), minlength=rows * count).reshape(rows, count)


def contributions(whole: float, without: np.ndarray) -> np.ndarray:
    """Return the contribution of each of n items to a metric that is not their mean, (n,); the contributions' mean is.

    `without`: the metric if each item is left out, (n,); NaN if it then does not exist, and such an item counts as one
    that changes nothing. These are the jackknife's pseudo-values (Tukey, 1958): an item that others are compared with
    counts for what it does to them, so that resampling items shows all that the metric owes to chance.
    """
    less = np.where(np.isfinite(without), without, whole)
    return np.asarray(whole + (len(less) - 1) * (less.mean() - less))


def student_ends(value: float, parts: Sequence[Variance], comparisons: int = 1) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a value whose variance is the sum of independent parts.

    `comparisons`: how many intervals are to hold at once (Bonferroni).
    """
    width = _width(parts, SIGNIFICANT / comparisons)
    return value - width, value + width


def p_value(value: float, parts: Sequence[Variance]) -> float:
    """Return the smallest p-value at which `student_ends` excludes zero, at least 1e-12; 0 if the value is exact."""
    if not any(variance for variance, _ in parts):
        return float(value == 0)
    low, high = np.log(_LEAST), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _width(parts, np.exp(middle)) < abs(value) else (middle, high)
    return float(np.exp(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979): in 95 % of cases, all those up to 0.05 are true effects."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for smaller, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - smaller)))
        corrected[place] = largest
    return corrected


def _width(parts: Sequence[Variance], outside: float) -> float:
    """Return half the width of an interval that excludes a value with this probability."""
    return sum(variance * _quantile(outside, freedom) ** 2 for variance, freedom in parts) ** 0.5


def check_scipy() -> None:
    """Raise MissingExtraError, before anything is fitted, if Student's t cannot be computed."""
    _quantile(SIGNIFICANT, 1.0)


def _quantile(outside: float, freedom: float) -> float:
    with needs_extra("eval", "scipy"):
        from scipy.special import stdtrit
    return float(-stdtrit(freedom, outside / 2))
