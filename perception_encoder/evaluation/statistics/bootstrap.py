"""The uncertainty of a metric: from resampled blocks of items, and from the seeds of heads that were fitted for it.

A block is resampled as a whole: an image, a video with all its frames, an RGB-D sequence. For many blocks without a
fitted head the interval is the percentiles of a bootstrap. A bootstrap over few blocks is too narrow (over five it
makes 16 % false claims in place of 5 %), and three seeds cannot be resampled at all; so there the two variances are
added, and the interval is Student's t with the degrees of freedom of Welch and Satterthwaite. One block, or one seed of
a fitted head, gives no interval, and nothing can be claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import DataError, MissingExtraError

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
"""The ends of an interval."""
FEW_BLOCKS = 20
"""Below this many the percentiles of a bootstrap are too narrow."""
_ROUNDING = 1e-9
"""Shares in two resamples that differ by less are the same."""
_LEVEL = (PERCENTILES[1] - PERCENTILES[0]) / 100
_AT_ONCE = 1_000_000  # items resampled at a time, all resamples of a batch together

Interval = tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of an evaluation."""

    name: str
    value: float
    """With the unit "%": a share, in [0, 1], or a difference of two."""
    n: int
    """The number of items it was computed on."""
    interval: Interval
    """95 % confidence interval; None for one block, or one seed of a fitted head."""
    unit: str = "%"
    """"%", "m" for metres, or empty for a plain number."""
    lower_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The value of a metric, or of a difference of two, with its resamples."""

    value: float
    """The mean over the seeds."""
    draws: Float[np.ndarray, " R"]
    """The mean over the seeds in each resample; NaN if a resample has no such metric."""
    blocks: int
    by_seed: tuple[float, ...] = ()
    """The value with each seed of a fitted head; empty if nothing is fitted from random weights."""

    def less(self, other: Estimate) -> Estimate:
        """Subtract another of the same draws, paired by block and by seed; DataError if they do not pair."""
        ours, theirs = ((len(each.draws), each.blocks, len(each.by_seed)) for each in (self, other))
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
        """Return the 95 % interval, None for one block or one seed.

        `comparisons`: how many intervals are to hold at once (Bonferroni).
        """
        draws = self.draws[np.isfinite(self.draws)]
        if self.blocks < 2 or len(self.by_seed) == 1 or not len(draws):
            return None
        if self.blocks >= FEW_BLOCKS and not self.by_seed and comparisons == 1:
            low, high = np.percentile(draws, PERCENTILES)
            return float(low), float(high)
        of_blocks = float(np.var(draws)) * self.blocks / (self.blocks - 1)
        return student_interval(self.value, of_blocks, self.blocks, self.by_seed, comparisons)

    def metric(self, name: str, n: int, unit: str = "%", lower_is_better: bool = False) -> Metric:
        """Return it as a metric; not for a difference, because a share ("%") stays within 0 and 1.

        A share that is the same in all resamples has no interval: that its items agree does not make it certain.
        """
        ends = self.interval()
        if ends is not None and unit == "%":
            certain = np.ptp(self.draws[np.isfinite(self.draws)]) < _ROUNDING
            ends = None if certain else (max(0.0, ends[0]), min(1.0, ends[1]))
        return Metric(name=name, value=self.value, n=n, interval=ends, unit=unit, lower_is_better=lower_is_better)


def resample(strata: Int[np.ndarray, " n"], seed: int, entries: int = 0) -> Iterator[Int[np.ndarray, "r n"]]:
    """Yield how often each of n blocks is in each of `RESAMPLES` resamples, some resamples at a time.

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
    """Return what each of n items contributes to a metric that is not a mean over them, (n,): their mean is the metric.

    `without`: the metric if each item is left out, (n,); NaN if it then does not exist, and such an item counts as one
    that changes nothing. These are the jackknife's pseudo-values (Tukey, 1958): an item that others are compared with
    counts for what it does to them, so that resampling items shows all that the metric owes to chance.
    """
    less = np.where(np.isfinite(without), without, whole)
    return np.asarray(whole + (len(less) - 1) * (less.mean() - less))


def student_interval(
    value: float, of_blocks: float, blocks: int, by_seed: Sequence[float], comparisons: int = 1
) -> Interval:
    """Return Student's interval from the variance that `value` has over blocks, and its values with several seeds.

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
    """Return the ends of Student's interval with these degrees of freedom."""
    width = _quantile(1 - (1 - _LEVEL) / (2 * comparisons), freedom) * variance**0.5
    return value - width, value + width


def check_scipy() -> None:
    """Raise MissingExtraError if Student's t cannot be computed, before anything is fitted."""
    _quantile(0.5, 1.0)


def _quantile(probability: float, freedom: float) -> float:
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtraError("scipy", "eval") from None
    return float(t.ppf(probability, freedom))
