"""Scores with their intervals, the per-item scores that they are made of, and paired differences of two models.

A score is the mean over groups of the weighted mean of entries. One entry for each item is a share (top-1); the
classes as groups make the mean class accuracy; entries of (image, class) with their unions as weights, and the classes
as groups, make mIoU. Intervals come from leaving out all entries of an item together, and all items of a block, the
frames of a video say. The items' scores of a fitted head are there once for each of its seeds.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np

from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.statistics.bootstrap import Estimate, EstimatedDifference, Interval

SEED = 0  # of the bootstrap
HEAD_SEEDS = 3
"""Number of seeds for a head over frozen features: the interval includes the effect of random weights."""


@dataclass(frozen=True)
class ItemScores:
    """Entries of one metric, packed as text to take a few bytes each in JSON; created by `of`."""

    metric: str
    items: int
    digest: str
    """Digest of the items' names in order: equal if two models were evaluated on the same items."""
    values: str
    owners: str = ""
    """The item of each entry; empty for one entry per item."""
    groups: str = ""
    weights: str = ""
    unit: str = "%"
    lower_is_better: bool = False
    blocks: str = ""
    """The block of each item; empty if every item is a block."""
    seed: int | None = None
    """Seed of the fitted head; None without one."""

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
        """Pack m entries that belong to n named items; DataError for no entries, and for a NaN or infinite value.

        Args:
            values: bool or float (m,); floats are stored as float32.
            owners: Index in `names` of each entry's item; by default entry i is of item i.
            groups: ints from 0, (m,).
            weights: At least 0, (m,).
            blocks: The name of each item's block, (n,).
        """
        entry_of = np.arange(len(values)) if owners is None else owners
        if len(values) == 0:
            raise DataError(f"{metric}: no items; give at least one")
        alone = blocks is None or len(set(blocks)) == len(names)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(
                f"{metric}: the score of {names[entry_of[bad[0]]]} is not a number; its features may be bad"
            )
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
    def pairing(self) -> tuple[int, str, str, str, str]:
        """Identity that two models must share to be compared: items, and each entry's item, group and block."""
        return self.items, self.digest, self.owners, self.groups, self.blocks

    def block_of(self) -> np.ndarray:
        """Return the block of each item, (n,) integers from 0; DataError if the data are damaged."""
        if not self.blocks:
            return np.arange(self.items)
        blocks = _unpack(self.blocks, f"{self.metric}: the items' blocks").astype(np.int64)
        if len(blocks) != self.items:
            raise DataError(f"{self.metric}: {len(blocks)} blocks for {self.items} items; evaluate again")
        return blocks

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return values (float64), owners, groups and weights of entries, (m,) each; DataError if they are damaged."""
        name = f"{self.metric}: the items' scores"
        values = _unpack(self.values, name).astype(np.float64)
        owners = _unpack(self.owners, name).astype(np.int64) if self.owners else np.arange(len(values))
        groups = _unpack(self.groups, name).astype(np.int64) if self.groups else np.zeros(len(values), np.int64)
        weights = _unpack(self.weights, name).astype(np.float64) if self.weights else np.ones(len(values))
        if not len(values) == len(owners) == len(groups) == len(weights) or owners.max(initial=0) >= self.items:
            raise DataError(f"{name} are damaged; evaluate again")
        return values, owners, groups, weights


@dataclass(frozen=True)
class ResampledScores:
    """A metric that is not a mean of entries, such as average precision, with its resamples; created by `of`.

    Two models' draws pair if they are of the same items, resampled with the same seed.
    """

    metric: str
    items: int
    digest: str
    value: float
    draws: str
    unit: str = "%"
    lower_is_better: bool = False
    seed: int | None = None
    """Seed of the fitted head; None without one."""

    @classmethod
    def of(cls, metric: str, value: float, draws: np.ndarray, names: Sequence[str]) -> ResampledScores:
        """Pack the metric of n named items in each resample, (R,); NaN where undefined."""
        return cls(metric, len(names), _digest(names), value, _pack(draws))

    @property
    def pairing(self) -> tuple[int, str]:
        """Identity that two models must share to be compared: the items."""
        return self.items, self.digest

    def unpack(self) -> np.ndarray:
        """Return the metric in each resample, (R,); DataError if the data are damaged."""
        return _unpack(self.draws, f"{self.metric}: the draws").astype(np.float64)


Scores: TypeAlias = ItemScores | ResampledScores
AnyScores = TypeVar("AnyScores", bound=Scores)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Description of how a score was computed; two models' scores are compared if `key` and the name agree."""

    task: str = ""
    method: str = ""
    """`zero-shot`, `retrieval`, `20-NN`, `linear probe` and so on."""
    transform: str = ""
    """How images are made square: `squash` or `crop`; empty if the task fixes it."""
    prompts: str = ""
    """Name of the templates, of `PROMPTS`; empty without prompts."""
    classes: int = 0
    """Number of classes or of gallery items to choose from; 0 if not applicable."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other settings, given or chosen: `layer`, `k`, `C`."""
    failures: tuple[InputError, ...] = field(default=(), compare=False, repr=False)
    """Items that could not be used; they are in no score."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.task, self.method, self.transform, self.prompts


@dataclass(frozen=True, kw_only=True)
class Score(Label):
    """One score of a model, or a difference of two models' scores."""

    name: str
    value: float
    """If the unit is "%", a share in [0, 1] or a difference of shares."""
    n: int
    interval: Interval = None
    """95 % confidence interval; None for one block, or one seed of a fitted head."""
    unit: str = "%"
    """"%", "m" for metres, or empty for a plain number."""
    lower_is_better: bool = False
    items: tuple[Scores, ...] = field(default=(), repr=False)
    """Scores of the items, for each seed of a fitted head: what comparisons pair; empty for a difference."""


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogatepass")).hexdigest()[:16]


def with_head_seeds(seeds: int, score: Callable[[int], Sequence[AnyScores]]) -> tuple[AnyScores, ...]:
    """Return the scores of a head fitted with each seed from 0, marked with the seed."""
    return tuple(replace(item, seed=seed) for seed in range(seeds) for item in score(seed))


def measure(scores: Scores) -> Score:
    """Return the score of some items, with its 95 % interval over resampled blocks."""
    return measure_all([scores])[0]


def measure_all(scores: Sequence[Scores], label: Label | None = None) -> tuple[Score, ...]:
    """Return the score of each metric, averaged over head seeds, with its 95 % interval."""
    groups: dict[str, list[Scores]] = {}
    for item in scores:
        groups.setdefault(item.metric, []).append(item)
    found = []
    for name, items in groups.items():
        estimated, first = estimate(items), items[0]
        found.append(
            Score(
                name=name,
                value=estimated.value,
                n=first.items,
                interval=estimated.bounds(),
                unit=first.unit,
                lower_is_better=first.lower_is_better,
                items=tuple(items),
                **vars(label or Label()),
            )
        )
    return tuple(found)


def estimate_difference(ours: Scores | Sequence[Scores], theirs: Scores | Sequence[Scores]) -> EstimatedDifference:
    """Estimate ours minus theirs, on the same blocks and with the same head seeds.

    Each is one metric, of one or several seeds. Raises DataError unless both are of the same items, in the same groups
    and blocks, with as many seeds.
    """
    both = (ours, theirs)
    one, other = ([part] if isinstance(part, ItemScores | ResampledScores) else part for part in both)
    first, second = one[0], other[0]
    if first.pairing[:2] == second.pairing[:2] and first.pairing != second.pairing:
        raise DataError(
            f"{first.metric}: the same {first.items:,} items have different groups or blocks in the two, so they were "
            "resampled by different rules; evaluate both again with this version"
        )
    if first.pairing != second.pairing:
        counts = f"{first.items:,} and {second.items:,}"
        raise DataError(f"{first.metric}: the two were not evaluated on the same items ({counts}); use the same data")
    try:
        return estimate(one).less(estimate(other))
    except DataError as error:
        raise DataError(f"{first.metric}: {error}") from error


def estimate(scores: Sequence[Scores]) -> Estimate:
    """Estimate one metric from the scores of one or more head seeds."""
    first = scores[0]
    draws, by_block, pseudo_values = np.empty(0), None, None
    if isinstance(first, ItemScores):
        block_of = first.block_of()
        blocks = int(block_of.max()) + 1
        found = [_jackknife(blocks, block_of, item) for item in scores if isinstance(item, ItemScores)]
        values, by_block, pseudo_values = (np.array(part) for part in zip(*found, strict=True))
        by_block, pseudo_values = by_block.mean(axis=0), pseudo_values.mean(axis=0)
    else:
        several = [score for score in scores if isinstance(score, ResampledScores)]
        values, blocks = np.array([entry.value for entry in several]), first.items
        draws = np.stack([entry.unpack() for entry in several], axis=1).mean(axis=1)
    return Estimate(
        value=float(values.mean()),
        draws=draws,
        blocks=blocks,
        by_seed=() if first.seed is None else tuple(float(value) for value in values),
        by_block=by_block,
        pseudo_values=pseudo_values,
        unit=first.unit,
    )


def _jackknife(count: int, block_of: np.ndarray, scores: ItemScores) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the metric, what each of `count` blocks contributes to it, (count,), and its pseudo-values, (count,).

    The contributions' mean is the metric. Groups without weight do not count: without a block, also those that only it
    has.
    """
    values, owners, groups, weights = (part[scores.entries()[3] > 0] for part in scores.entries())
    blocks, (names, groups) = block_of[owners], np.unique(groups, return_inverse=True)
    present = max(1, len(names))
    pairs, pair = np.unique(blocks * present + groups, return_inverse=True)
    block, group = np.divmod(pairs, present)  # of each pair of a block and a group that it has

    def total(index: np.ndarray, sizes: np.ndarray, length: int) -> np.ndarray:
        return np.bincount(index, sizes, minlength=length)

    totals, sums = (total(groups, sizes, len(names)) for sizes in (weights, weights * values))
    means = sums / totals
    value = float(means.sum()) / present
    contributed = total(blocks, weights * values / totals[groups], count) * count / present
    only = np.bincount(group, minlength=len(names))[group] == 1
    rest, rest_sums = (
        whole[group] - total(pair, sizes, len(pairs)) for whole, sizes in ((totals, weights), (sums, weights * values))
    )
    changed = np.divide(rest_sums, rest, out=np.zeros(len(pairs)), where=~only)
    others = present - total(block, only, count)
    without = (means.sum() + total(block, changed - means[group], count)) / np.maximum(1, others)
    return value, contributed, np.where(others > 0, count * value - (count - 1) * without, value)


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


def _unpack(text: str, name: str) -> np.ndarray:
    """Return packed values; DataError with the name if they are damaged."""
    try:
        kind, count, content = text.split(" ")
        if kind not in ("bool", "uint8", "uint16", "uint32", "uint64", "float32"):
            raise ValueError(f"scores of type {kind!r}")
        data = zlib.decompress(base64.b64decode(content))
        if kind == "bool":
            return np.unpackbits(np.frombuffer(data, np.uint8), count=int(count)).astype(bool)
        values = np.frombuffer(data, np.dtype(kind).newbyteorder("<"))
        if len(values) != int(count):
            raise ValueError(f"{len(values)} scores, not {count}")
    except (ValueError, TypeError, zlib.error) as error:
        raise DataError(f"{name} are damaged ({error}); evaluate again") from error
    return values
