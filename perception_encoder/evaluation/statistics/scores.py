"""What each item contributed to a figure: the figure, its bootstrap interval, and the paired difference of two models.

A figure is the mean over groups of the weighted mean of entries. One entry for each item is a share (top-1); the
classes as groups make the mean class accuracy; entries of (picture, class) with their unions as weights, and the
classes as groups, make mIoU. Items are what is drawn anew: all entries of one are drawn together, and all items of a
block, the frames of a video say. Where every block is of one group, blocks are drawn within their group, so that no
group is ever empty. The scores of a fitted head are there once for each of its seeds.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.statistics.estimate import Estimate, Metric, check_scipy
from perception_encoder.evaluation.statistics.resampling import RESAMPLES

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
    blocks: str = ""
    """Which block each item is of; empty where each is one."""
    seed: int | None = None
    """Of the fitted head; None without one."""

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
        blocks: Sequence[str] | None = None,
        unit: str = "%",
        lower_is_better: bool = False,
    ) -> ItemScores:
        """Pack m entries of n named items.

        `values`: bool or float (m,); floats are kept as float32. `owners`: place in `names` of each entry's item, (m,);
        left out, entry i is of item i. `groups`: ints from 0, (m,). `weights`: at least 0, (m,). `blocks`: the name of
        each item's block, (n,). Raises DataError for no entries and for a value that is no number.
        """
        entry_of = np.arange(len(values)) if owners is None else owners
        if len(values) == 0:
            raise DataError(f"{metric}: there is nothing to measure; give at least one item")
        alone = blocks is None or len(set(blocks)) == len(names)
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
            blocks="" if alone else _pack(np.unique(list(blocks or ()), return_inverse=True)[1]),
            unit=unit,
            lower_is_better=lower_is_better,
        )

    @property
    def drawn(self) -> tuple[int, str, str, str, str]:
        """What two models must share to be compared: the items, and which entry is of which item, group and block."""
        return self.items, self.digest, self.owners, self.groups, self.blocks

    def block_of(self) -> np.ndarray:
        """The block of each item, ints from 0, (n,); DataError where it is damaged."""
        if not self.blocks:
            return np.arange(self.items)
        try:
            blocks = _unpack(self.blocks).astype(np.int64)
        except (ValueError, TypeError, zlib.error) as error:
            raise DataError(f"{self.metric}: the items' blocks are damaged ({error}); evaluate again") from error
        if len(blocks) != self.items:
            raise DataError(f"{self.metric}: {len(blocks)} blocks for {self.items} items; evaluate again")
        return blocks

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
    seed: int | None = None
    """Of the fitted head; None without one."""

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
AnyScores = TypeVar("AnyScores", bound=Scores)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest()[:16]


def check_head_seeds(seeds: int) -> None:
    """Raise ConfigError for no seed."""
    if seeds < 1:
        raise ConfigError(f"the number of head seeds is {seeds}; it must be at least 1, and 2 for an interval")


def with_head_seeds(seeds: int, score: Callable[[int], Sequence[AnyScores]]) -> tuple[AnyScores, ...]:
    """The scores of a head that is fitted with each of some seeds, from 0, marked with their seed.

    Raises ConfigError for no seed, and MissingExtraError without scipy before anything is fitted.
    """
    check_head_seeds(seeds)
    check_scipy()
    return tuple(replace(each, seed=seed) for seed in range(seeds) for each in score(seed))


def by_metric(scores: Sequence[AnyScores]) -> dict[str, list[AnyScores]]:
    """Scores of several seeds, those of one figure together."""
    groups: dict[str, list[AnyScores]] = {}
    for each in scores:
        groups.setdefault(each.metric, []).append(each)
    return groups


def estimate(scores: Sequence[Scores], seed: int = SEED) -> Estimate:
    """One figure, of each head seed if there are several; `seed`: of the draws, the same for all of the same blocks."""
    first = scores[0]
    if isinstance(first, ItemScores):
        values, drawn = _bootstrap([each for each in scores if isinstance(each, ItemScores)], seed)
        blocks = int(first.block_of().max()) + 1
    else:
        several = [each for each in scores if isinstance(each, DrawnScores)]
        values, drawn = np.array([each.value for each in several]), np.stack([e.resampled() for e in several], axis=1)
        blocks = first.items
    by_seed = () if first.seed is None else tuple(float(value) for value in values)
    return Estimate(value=float(values.mean()), drawn=drawn.mean(axis=1), blocks=blocks, by_seed=by_seed)


def measure(scores: ItemScores, seed: int = SEED) -> Metric:
    """The figure with its 95 % interval over blocks drawn anew."""
    return _metric([scores], estimate([scores], seed))


def measure_all(scores: Sequence[Scores]) -> tuple[Metric, ...]:
    """Each figure, the mean over the head seeds if there are several, with its 95 % interval."""
    return tuple(_metric(group, estimate(group)) for group in by_metric(scores).values())


def difference(ours: Scores | Sequence[Scores], theirs: Scores | Sequence[Scores], seed: int = SEED) -> Metric:
    """Ours less theirs, with its 95 % interval: the same blocks and the same head seeds for both.

    Each is one figure, of one or several seeds. Raises DataError unless both are of the same items, in the same groups
    and blocks, with as many seeds.
    """
    one, other = ([each] if isinstance(each, ItemScores | DrawnScores) else each for each in (ours, theirs))
    first, second = one[0], other[0]
    if first.drawn[:2] == second.drawn[:2] and first.drawn != second.drawn:
        raise DataError(
            f"{first.metric}: the same {first.items:,} items have different groups or blocks in the two, so they were "
            "drawn by different rules; evaluate both again with this version"
        )
    if first.drawn != second.drawn:
        counts = f"{first.items:,} and {second.items:,}"
        raise DataError(f"{first.metric}: the two were not measured on the same items ({counts}); take the same data")
    try:
        gap = estimate(one, seed).less(estimate(other, seed))
    except DataError as error:
        raise DataError(f"{first.metric}: {error}") from error
    return Metric(first.metric, gap.value, first.items, gap.interval(), first.unit, first.lower_is_better)


def _metric(scores: Sequence[Scores], found: Estimate) -> Metric:
    first = scores[0]
    return found.metric(first.metric, first.items, first.unit, first.lower_is_better)


def _bootstrap(several: Sequence[ItemScores], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The figures of one or more models (M,), and in each resample (R, M)."""
    block_of = several[0].block_of()
    count = int(block_of.max()) + 1
    entries = [_by_group(*_of_blocks(scores, block_of)) for scores in several]
    starts, sizes, order = _strata(count, *_of_blocks(several[0], block_of)[1:3])
    generator = np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // max(count, *(len(each[0]) for each in entries)))
    drawn = []
    for start in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - start)
        places = starts + (generator.random((rows, count)) * sizes).astype(np.int64)
        offsets = count * np.arange(rows)[:, None]
        times = np.bincount((order[places] + offsets).ravel(), minlength=rows * count).reshape(rows, count)
        drawn.append(np.stack([_figures(times, *each) for each in entries], axis=1))
    once = np.ones((1, count))
    return np.array([_figures(once, *each)[0] for each in entries]), np.concatenate(drawn)


def _of_blocks(scores: ItemScores, block_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The entries, each owned by the block of its item."""
    values, owners, groups, weights = scores.entries()
    return values, block_of[owners], groups, weights


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
