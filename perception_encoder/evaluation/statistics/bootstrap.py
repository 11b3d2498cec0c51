"""Estimate the uncertainty of a metric from its blocks of items and from the seeds of its fitted heads.

A block counts as a whole: an image, a video with all its frames, an RGB-D sequence. The variance over blocks is that of
the jackknife's pseudo-values (Tukey, 1958), or of resamples for a metric that is not a mean. Each variance is
multiplied by the square of its own Student's t (Banerjee, 1960). A share has Wilson's interval (1927), for the number
of items that would have this variance. Where few blocks differ between two models, or each is right or wrong, the
p-value is exact, and the interval counts two more blocks, in which one and the other model is better (Bonett and
Price, 2012). Reasons and coverage: docs/protocols.md, Intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from perception_encoder.errors import DataError, needs_extra

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
FEW_BLOCKS = 20
"""With fewer blocks, bootstrap percentiles are too narrow; with fewer that differ between two models, Student's t."""
_NEGLIGIBLE = 0.02
"""Share of the largest difference below which a block counts as equal: in a ratio, one block changes all a little."""
_ROUNDING = 1e-9
"""Shares that differ by less count as equal."""
_AT_ONCE = 1_000_000  # items resampled at a time, all resamples of a batch together

SIGNIFICANT = 2 * PERCENTILES[0] / 100
"""Maximum p-value for a claim, corrected for the number of comparisons."""
_NORMAL = NormalDist().inv_cdf(1 - SIGNIFICANT / 2)
_LEAST = 1e-12

Interval = tuple[float, float] | None
"""A 95 % confidence interval; None for one block, or one seed of a fitted head."""
Variance = tuple[float, float]
"""A variance of a value with its estimate's degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The value of a metric with its resamples."""

    value: float
    """The mean over the seeds."""
    draws: Float[np.ndarray, " R"]
    """The mean over the seeds in each resample; NaN if the metric is undefined there. Empty for a mean."""
    blocks: int
    by_seed: tuple[float, ...] = ()
    """The value for each seed of a fitted head; empty without random weights."""
    by_block: Float[np.ndarray, " n"] | None = None
    """The contribution of each block: their mean is the value. None for a metric that is not a mean, such as AP."""
    pseudo_values: Float[np.ndarray, " n"] | None = None
    """The jackknife's pseudo-values: n times the value less n - 1 times the value without a block. None as above."""
    unit: str = "%"

    def less(self, other: Estimate) -> EstimatedDifference:
        """Subtract another estimate with the same draws, paired by block and by seed; DataError if they do not pair."""
        ours, theirs = ((len(item.draws), item.blocks, len(item.by_seed)) for item in (self, other))
        if ours != theirs:
            raise DataError(
                f"draws, blocks and head seeds differ: {ours} and {theirs}; evaluate both with the same data and seeds"
            )

        def subtract(one: np.ndarray | None, two: np.ndarray | None) -> np.ndarray | None:
            return None if one is None or two is None else one - two

        return EstimatedDifference(
            value=self.value - other.value,
            draws=self.draws - other.draws,
            blocks=self.blocks,
            by_seed=tuple(one - two for one, two in zip(self.by_seed, other.by_seed, strict=True)),
            by_block=subtract(self.by_block, other.by_block),
            pseudo_values=subtract(self.pseudo_values, other.pseudo_values),
            unit=self.unit,
        )

    def interval(self, comparisons: int = 1) -> Interval:
        """Return the 95 % interval; None for one block, one seed, or no variance.

        `comparisons`: how many intervals are to hold at once (Bonferroni).
        """
        parts = self.parts()
        if parts is None:
            return None
        if self.pseudo_values is None and self.blocks >= FEW_BLOCKS and not self.by_seed and comparisons == 1:
            low, high = np.percentile(self._finite_draws(), PERCENTILES)
            return float(low), float(high)
        return student_ends(self.middle(), parts, comparisons)

    def middle(self) -> float:
        """Return the middle of the interval: the value less half of its bias, as the jackknife estimates it."""
        return self.value + self._half_bias()

    def parts(self) -> list[Variance] | None:
        """Return the variances over blocks and over seeds; each None for one block or one seed."""
        of_blocks = self.of_blocks()
        if of_blocks is None or len(self.by_seed) == 1:
            return None
        parts = [(of_blocks, self.freedom())]
        if self.by_seed:
            parts.append((float(np.var(self.by_seed, ddof=1)) / len(self.by_seed), len(self.by_seed) - 1.0))
        return parts

    def of_blocks(self) -> float | None:
        """Return the variance of the middle over blocks; None for one block or without variance."""
        if self.blocks < 2 or not self._varies():
            return None
        if self.pseudo_values is None:
            return float(np.var(self._finite_draws())) * self.blocks / (self.blocks - 1)
        return float(np.var(self.pseudo_values, ddof=1)) / self.blocks + self._half_bias() ** 2

    def freedom(self) -> float:
        """Return the variance's degrees of freedom: fewer if few blocks make most of it (Satterthwaite, 1946)."""
        if self.pseudo_values is None:
            return self.blocks - 1.0
        squares = (self.pseudo_values - self.pseudo_values.mean()) ** 2
        kurtosis = float((squares**2).mean() / squares.mean() ** 2)
        return min(self.blocks - 1.0, 2 * self.blocks / max(kurtosis - 1, 1e-9))

    def bounds(self) -> Interval:
        """Return the interval of a score: Wilson's for a share, also if all items agree; else `interval`."""
        ends, parts = self.interval(), self.parts()
        if self.unit != "%" or self.blocks < 2 or len(self.by_seed) == 1:
            return ends
        plain = not self.by_seed and self.by_block is not None and _is_binary(self.by_block)
        if plain or ends is None or parts is None:
            return wilson_ends(self.value, self.blocks)
        share = self.middle() if 0 < self.middle() < 1 else self.value
        if self.pseudo_values is None or not 0 < share < 1:
            return max(0.0, ends[0]), min(1.0, ends[1])
        return wilson_ends(share, share * (1 - share) * (_NORMAL / _width(parts, SIGNIFICANT)) ** 2)

    def _half_bias(self) -> float:
        return 0.0 if self.pseudo_values is None else (float(self.pseudo_values.mean()) - self.value) / 2

    def _varies(self) -> bool:
        varying = self._finite_draws() if self.pseudo_values is None else self.pseudo_values
        return len(varying) > 0 and float(np.ptp(varying)) > _ROUNDING

    def _finite_draws(self) -> np.ndarray:
        return self.draws[np.isfinite(self.draws)]


@dataclass(frozen=True, kw_only=True)
class EstimatedDifference(Estimate):
    """A difference of two metrics, paired by block."""

    def interval(self, comparisons: int = 1) -> Interval:
        """Return the 95 % interval: see `Estimate`. It excludes zero if and only if `p_value` is below 0.05."""
        parts = self.parts()
        if parts is None:
            return None
        middle, outside, exact = self.middle(), SIGNIFICANT / comparisons, self._exact_p_value()
        low, high = student_ends(middle, parts, comparisons)
        if exact is not None and exact >= outside:
            low, high = min(low, 0.0), max(high, 0.0)
        elif exact is not None and low <= 0 <= high and not self.by_seed:  # test-based limits (Miettinen, 1976)
            width = abs(middle) * _quantile(outside, self.blocks - 1) / _quantile(exact, self.blocks - 1)
            low, high = middle - width, middle + width
        return (max(-1.0, low), min(1.0, high)) if self.unit == "%" else (low, high)

    def middle(self) -> float:
        few = self._few_blocks()
        return super().middle() if few is None else float(few.mean())

    def of_blocks(self) -> float | None:
        """Return the variance over blocks: see `Estimate`. None for no difference of a metric without a known range."""
        few = self._few_blocks()
        if few is None or self.blocks < 2:
            return super().of_blocks()
        return float(few.var()) / len(few) or None

    def freedom(self) -> float:
        return super().freedom() if self._few_blocks() is None else self.blocks - 1.0

    def p_value(self) -> float:
        """Return the p-value of the value against zero; 1 without an interval."""
        parts, exact = self.parts(), self._exact_p_value()
        if parts is None:
            return 1.0
        if exact is not None and not self.by_seed:
            return exact
        return max(exact or 0.0, p_value(self.middle(), parts))

    def _exact_p_value(self) -> float | None:
        """Return the p-value of the exact test; None where many blocks differ by degrees."""
        few = self._few_blocks()
        if few is None:
            return None
        differing = few[:-2][_differs(few[:-2])]
        if self._right_or_wrong():
            return sign_p_value(differing)
        return swap_p_value(differing) if len(differing) < FEW_BLOCKS else None

    def _few_blocks(self) -> Float[np.ndarray, " m"] | None:
        """Return the blocks' differences and two more, the largest in both directions.

        None where many blocks differ, and not by being right or wrong.
        """
        if self.by_block is None and self._varies():
            return None
        by_block = np.full(self.blocks, self.value) if self.by_block is None else self.by_block
        count = int(_differs(by_block).sum())
        if self._varies() and not self._right_or_wrong() and (count >= FEW_BLOCKS or 2 * count > self.blocks):
            return None
        largest = float(np.abs(by_block).max()) or float(self.unit == "%")
        return np.append(by_block, (largest, -largest))

    def _right_or_wrong(self) -> bool:
        return self.by_block is not None and _is_binary(self.by_block)


def _differs(differences: np.ndarray) -> np.ndarray:
    sizes = np.abs(differences)
    return np.asarray(sizes > max(_ROUNDING, _NEGLIGIBLE * float(sizes.max(initial=0))))


def _is_binary(values: np.ndarray) -> bool:
    """Return whether each value is 0 or 1, or a difference of these."""
    sizes = np.abs(values)
    return bool((np.minimum(sizes, np.abs(sizes - 1)) < _ROUNDING).all())


def resample(count: int, seed: int) -> Iterator[Int[np.ndarray, "r n"]]:
    """Yield how often each of `count` blocks occurs in each of `RESAMPLES` resamples, some resamples at a time."""
    generator = np.random.default_rng(seed)
    batch = max(1, _AT_ONCE // count)
    for first in range(0, RESAMPLES, batch):
        rows = min(batch, RESAMPLES - first)
        chosen = (generator.random((rows, count)) * count).astype(np.int64)
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


def wilson_ends(share: float, n: float) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a share of n items; of others, n is how many would vary as much."""
    square = _NORMAL**2 / n
    middle, width = share + square / 2, (square * (share * (1 - share) + square / 4)) ** 0.5
    return max(0.0, (middle - width) / (1 + square)), min(1.0, (middle + width) / (1 + square))


def sign_p_value(differences: Float[np.ndarray, " n"]) -> float:
    """Return the exact p-value of the number of differences above zero: McNemar's exact test of right and wrong."""
    with needs_extra("eval", "scipy"):
        from scipy.special import bdtr
    fewer = min((differences > 0).sum(), (differences < 0).sum())
    return min(1.0, max(_LEAST, 2 * float(bdtr(fewer, len(differences), 0.5))))


def swap_p_value(differences: Float[np.ndarray, " n"]) -> float:
    """Return the exact p-value of a sum of differences, from all 2^n ways to swap the two sides of each."""
    sums = np.zeros(1)
    for size in np.abs(differences):
        sums = np.concatenate([sums + size, sums - size])
    return float(np.mean(np.abs(sums) >= abs(differences.sum()) - _ROUNDING))


def p_value(value: float, parts: Sequence[Variance]) -> float:
    """Return the smallest p-value at which `student_ends` excludes zero, at least 1e-12; 1 without variance."""
    if not any(variance for variance, _ in parts):
        return 1.0
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
