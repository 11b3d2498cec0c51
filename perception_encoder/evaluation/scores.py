"""What each item contributed to a figure: the figure, its bootstrap interval, and the paired difference of two models.

A figure is the mean over groups of the weighted mean of entries. One entry for each item is a share (top-1); the
classes as groups make the mean class accuracy; entries of (picture, class) with their unions as weights, and the
classes as groups, make mIoU. Items are what is drawn anew: all entries of one are drawn together. Where every item is
of one group, items are drawn within their group, so that no group is ever empty.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from perception_encoder.errors import DataError
from perception_encoder.evaluation.metrics import INTERVAL, RESAMPLES
from perception_encoder.evaluation.protocol import Metric

SEED = 0  # of the bootstrap
_AT_ONCE = 1_000_000  # items drawn at a time, all resamples of a block together


@dataclass(frozen=True)
class ItemScores:
    """The entries of one figure, packed as text, so that JSON holds them in a few bytes each; `of` makes one."""

    metric: str
    """Name of the figure."""
    items: int
    """How many there are."""
    digest: str
    """Of the items' names in order: two models were measured on the same items where this is the same."""
    values: str
    owners: str = ""
    """Which item each entry is of; empty for one entry an item."""
    groups: str = ""
    weights: str = ""
    unit: str = "%"
    lower_is_better: bool = False

    @classmethod
    def of(
        cls,
        metric: str,
        values: np.ndarray,
        names: Sequence[str],
        *,
        owners: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        unit: str = "%",
        lower_is_better: bool = False,
    ) -> ItemScores:
        """Pack m entries of n named items.

        `values`: bool or float (m,); floats are kept as float32. `owners`: place in `names` of each entry's item, (m,);
        left out, entry i is of item i. `groups`: ints from 0, (m,). `weights`: at least 0, (m,). Raises DataError for
        no entries and for a value that is no number.
        """
        entry_of = np.arange(len(values)) if owners is None else owners
        if len(values) == 0:
            raise DataError(f"{metric}: there is nothing to measure; give at least one item")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(f"{metric}: the score of {names[entry_of[bad[0]]]} is no number; its features may be bad")
        return cls(
            metric=metric,
            items=len(names),
            digest=_digest(names),
            values=_pack(values),
            owners="" if owners is None else _pack(owners),
            groups="" if groups is None else _pack(groups),
            weights="" if weights is None else _pack(weights),
            unit=unit,
            lower_is_better=lower_is_better,
        )

    @property
    def drawn(self) -> tuple[int, str, str, str]:
        """What two models must share to be compared: the items, and which entry is of which item and group."""
        return self.items, self.digest, self.owners, self.groups

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Values (float64), owners, groups and weights of the entries, (m,) each; DataError where they are damaged."""
        try:
            values = _unpack(self.values).astype(np.float64)
            owners = _unpack(self.owners).astype(np.int64) if self.owners else np.arange(len(values))
            groups = _unpack(self.groups).astype(np.int64) if self.groups else np.zeros(len(values), np.int64)
            weights = _unpack(self.weights).astype(np.float64) if self.weights else np.ones(len(values))
        except (ValueError, TypeError, zlib.error) as error:
            raise DataError(f"{self.metric}: the items' scores are damaged ({error}); measure anew") from error
        if not len(values) == len(owners) == len(groups) == len(weights) or owners.max(initial=0) >= self.items:
            raise DataError(f"{self.metric}: the items' scores are damaged; measure anew")
        return values, owners, groups, weights


@dataclass(frozen=True)
class DrawnScores:
    """A figure that is no mean of entries, average precision say, and what it is on items drawn anew; `of` makes one.

    Two models' draws pair where they are of the same items, drawn with the same seed.
    """

    metric: str
    items: int
    digest: str
    value: float
    draws: str
    unit: str = "%"
    lower_is_better: bool = False

    @classmethod
    def of(cls, metric: str, value: float, draws: np.ndarray, names: Sequence[str]) -> DrawnScores:
        """Pack the figure of n named items in each resample, (R,), NaN where it does not exist."""
        return cls(metric, len(names), _digest(names), value, _pack(draws))

    @property
    def drawn(self) -> tuple[int, str]:
        """What two models must share to be compared."""
        return self.items, self.digest

    def resampled(self) -> np.ndarray:
        """The figure in each resample, (R,); DataError where it is damaged."""
        try:
            return _unpack(self.draws).astype(np.float64)
        except (ValueError, TypeError, zlib.error) as error:
            raise DataError(f"{self.metric}: the draws are damaged ({error}); measure anew") from error


def contributions(whole: float, without: np.ndarray) -> np.ndarray:
    """What each of n items contributes to a figure that is no mean over them, (n,): their mean is the figure.

    `without`: the figure where each item is left out, (n,); NaN where it then does not exist, and such an item counts
    as one that changes nothing. These are the jackknife's pseudo-values (Tukey, 1958): an item that others are compared
    with counts for what it does to them, so that drawing items anew shows all that the figure owes to chance.
    """
    less = np.where(np.isfinite(without), without, whole)
    return np.asarray(whole + (len(less) - 1) * (less.mean() - less))


Scores: TypeAlias = ItemScores | DrawnScores


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest()[:16]


def measure(scores: ItemScores, seed: int = SEED) -> Metric:
    """The figure with its 95 % interval over items drawn anew."""
    value, drawn = _bootstrap([scores], seed)
    return _metric(scores, scores.metric, value[0], drawn[:, 0])


def draw(scores: ItemScores, seed: int = SEED) -> tuple[float, np.ndarray]:
    """The figure, and what it is on items drawn anew, (R,): the same draws for all that have the same items."""
    value, drawn = _bootstrap([scores], seed)
    return float(value[0]), drawn[:, 0]


def difference(ours: Scores, theirs: Scores, seed: int = SEED) -> Metric:
    """Ours less theirs, with its 95 % interval over items drawn anew, the same for both.

    Raises DataError unless both are of the same items, in the same groups.
    """
    if ours.drawn != theirs.drawn:
        counts = f"{ours.items:,} and {theirs.items:,}"
        raise DataError(f"{ours.metric}: the two were not measured on the same items ({counts}); take the same data")
    if isinstance(ours, DrawnScores) and isinstance(theirs, DrawnScores):
        first, second = ours.resampled(), theirs.resampled()
        if len(first) != len(second):
            raise DataError(f"{ours.metric}: drawn anew {len(first)} and {len(second)} times; measure both alike")
        return _metric(ours, ours.metric, ours.value - theirs.value, first - second)
    assert isinstance(ours, ItemScores) and isinstance(theirs, ItemScores)  # of as many parts in `drawn`
    value, drawn = _bootstrap([ours, theirs], seed)
    return _metric(ours, ours.metric, value[0] - value[1], drawn[:, 0] - drawn[:, 1])


def _metric(scores: Scores, name: str, value: float, drawn: np.ndarray) -> Metric:
    low, high = np.nanpercentile(drawn, INTERVAL)
    return Metric(name, float(value), scores.items, (float(low), float(high)), scores.unit, scores.lower_is_better)


def _bootstrap(several: Sequence[ItemScores], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The figures of one or more models (M,), and in each resample (R, M)."""
    entries = [_by_group(*scores.entries()) for scores in several]
    count = several[0].items
    starts, sizes, order = _strata(count, *several[0].entries()[1:3])
    generator = np.random.default_rng(seed)
    block = max(1, _AT_ONCE // max(count, *(len(each[0]) for each in entries)))
    drawn = []
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        places = starts + (generator.random((rows, count)) * sizes).astype(np.int64)
        offsets = count * np.arange(rows)[:, None]
        times = np.bincount((order[places] + offsets).ravel(), minlength=rows * count).reshape(rows, count)
        drawn.append(np.stack([_figures(times, *each) for each in entries], axis=1))
    once = np.ones((1, count))
    return np.array([_figures(once, *each)[0] for each in entries]), np.concatenate(drawn)


def _by_group(
    values: np.ndarray, owners: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entries sorted by group: values, owners and weights, and where each group begins."""
    order = np.argsort(groups, kind="stable")
    begins = np.unique(groups[order], return_index=True)[1]
    return values[order], owners[order], weights[order], begins


def _strata(count: int, owners: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each place (n,): where its stratum starts and how large it is; and which item stands where, (n,)."""
    stratum = np.zeros(count, np.int64)
    stratum[owners] = groups
    if len(np.unique(owners)) < count or (stratum[owners] != groups).any():  # an item of no group, or of several
        stratum[:] = 0
    order = np.argsort(stratum, kind="stable")
    _, places, sizes = np.unique(stratum[order], return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - sizes)[places], sizes[places], order


def _figures(
    times: np.ndarray, values: np.ndarray, owners: np.ndarray, weights: np.ndarray, begins: np.ndarray
) -> np.ndarray:
    """The figure where each item is there so many times, (R, n) to (R,); groups without weight are left out."""
    drawn = times[:, owners] * weights
    totals = np.add.reduceat(drawn, begins, axis=1)  # (R, groups)
    sums = np.add.reduceat(drawn * values, begins, axis=1)
    means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    return means.sum(axis=1) / np.maximum(1, (totals > 0).sum(axis=1))


def _pack(values: np.ndarray) -> str:
    if values.dtype == bool:
        kind, content = "bool", np.packbits(values)
    elif values.dtype.kind in "iu":
        kind = str(np.min_scalar_type(int(values.max(initial=0))))
        content = values.astype(kind)
    else:
        kind, content = "float32", values.astype(np.float32)
    little = content.astype(content.dtype.newbyteorder("<"))
    return f"{kind} {len(values)} {base64.b64encode(zlib.compress(little.tobytes(), 9)).decode()}"


def _unpack(text: str) -> np.ndarray:
    kind, count, content = text.split(" ")
    if kind not in ("bool", "uint8", "uint16", "uint32", "uint64", "float32"):
        raise ValueError(f"scores of type {kind!r}")
    data = zlib.decompress(base64.b64decode(content))
    if kind == "bool":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=int(count)).astype(bool)
    values = np.frombuffer(data, np.dtype(kind).newbyteorder("<"))
    if len(values) != int(count):
        raise ValueError(f"{len(values)} scores, not {count}")
    return values
