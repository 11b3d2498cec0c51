"""Draw the samples of a step's batch as a pure function of the seed and the step, so that resuming is exact."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from perception_encoder.errors import ConfigError, DataError, InputError

logger = logging.getLogger(__name__)

WINDOW = 16  # number of shards to shuffle together

TRIES = 8  # samples tried for one row
Position = tuple[int, int]  # a source with the number of samples drawn from it before


class WeightedSampler:
    """Mixes several sources in fixed shares, reshuffling each one every epoch.

    A batch holds the same number of samples of each source, its share of `batch_size` rounded (at least one
    if the weight is positive). The next batch continues where the last one stopped.
    """

    def __init__(
        self, sizes: Sequence[int | Sequence[int]], weights: Sequence[float], batch_size: int, seed: int
    ) -> None:
        """Mix sources with `sizes` samples, in total or per shard, by `weights` (any positive scale).

        Raises ConfigError for a batch with fewer samples than sources, and for sources with a weight but no samples.
        """
        self.shards = [np.atleast_1d(np.asarray(size, dtype=np.int64)) for size in sizes]
        self.sizes = [int(shards.sum()) for shards in self.shards]
        empty = [i for i, (size, weight) in enumerate(zip(self.sizes, weights, strict=True)) if weight and size < 1]
        if empty:
            raise ConfigError(f"sources {empty} have a weight but no samples")
        self.seed, self.counts = seed, _apportion(weights, batch_size)
        self._orders: dict[tuple[int, int], ShardOrder] = {}

    def positions(self, step: int) -> list[Position]:
        """Return the positions that `step` (0-based) draws, in random order."""
        drawn = []
        for source, count in enumerate(self.counts):
            drawn += [(source, position) for position in range(step * count, (step + 1) * count)]
        shuffle = np.random.default_rng([self.seed, 1, step]).permutation(len(drawn))
        return [drawn[i] for i in shuffle]

    def index(self, position: Position, later: int = 0) -> int:
        """Return the index within its source of the sample at a position, or of the one `later` steps later."""
        source, drawn = position
        epoch, offset = divmod(drawn + later * self.counts[source], self.sizes[source])
        return self._order(source, epoch)[offset]

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return the samples of `step`, in random order, as (source, index within the source)."""
        return [(position[0], self.index(position)) for position in self.positions(step)]

    def _order(self, source: int, epoch: int) -> ShardOrder:
        """Return a source's order in an epoch; the last two are cached, as a batch may span them."""
        key = (source, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source or k[1] == epoch - 1}
            self._orders[key] = ShardOrder(self.shards[source], (self.seed, 0, source, epoch))
        return self._orders[key]


class ShardOrder:
    """Order of a source's samples in one epoch, in windows of shards to keep few files open.

    Shards come in random order, and the samples of each `WINDOW` shards are shuffled together, every sample once.
    """

    def __init__(self, sizes: np.ndarray, key: Sequence[int]) -> None:
        self._sizes, self._key = sizes, key
        self._starts = np.cumsum(sizes) - sizes
        order = np.random.default_rng([*key, 0]).permutation(len(sizes))
        self._windows = [order[at : at + WINDOW] for at in range(0, len(order), WINDOW)]
        self._ends = np.cumsum([sizes[window].sum() for window in self._windows])
        self._mixed: dict[int, np.ndarray] = {}

    def __getitem__(self, offset: int) -> int:
        """Return the index within the source of the sample at `offset`."""
        window = int(np.searchsorted(self._ends, offset, side="right"))
        if window not in self._mixed:
            self._mixed = {k: v for k, v in self._mixed.items() if k == window - 1}
            shards = [np.arange(self._sizes[shard]) + self._starts[shard] for shard in self._windows[window]]
            generator = np.random.default_rng([*self._key, 1, window])
            self._mixed[window] = generator.permutation(np.concatenate(shards))
        return int(self._mixed[window][offset - self._ends[window]])  # from the end: negative


def _apportion(weights: Sequence[float], batch_size: int) -> tuple[int, ...]:
    """Split `batch_size` by `weights` with largest remainders, and at least one sample for each positive weight."""
    used = [i for i, weight in enumerate(weights) if weight > 0]
    if batch_size < len(used):
        raise ConfigError(f"batch_size {batch_size} is less than the {len(used)} sources in use")
    spare = batch_size - len(used)
    exact = np.maximum(np.asarray(weights, dtype=float) / sum(weights) * batch_size - 1, 0)
    exact *= spare / exact.sum() if exact.sum() > 0 else 0
    counts = np.floor(exact).astype(int)
    order = sorted(used, key=lambda i: counts[i] - exact[i])
    for i in order[: spare - int(counts.sum())]:
        counts[i] += 1
    for i in used:
        counts[i] += 1
    return tuple(int(count) for count in counts)


T = TypeVar("T")


def first_usable(index: Callable[[int], int], make: Callable[[int], T], name: Callable[[int], str], bad: set[str]) -> T:
    """Return `make(index(0))`; if that sample is unusable, the one due a step later, `make(index(1))`, and so on.

    Each unusable sample is logged once and added to `bad` by its name. Raises DataError after `TRIES` samples.
    """
    for later in range(TRIES):
        try:
            return make(index(later))
        except InputError as error:
            if (named := name(index(later))) not in bad:
                bad.add(named)
                logger.warning("skipped %s", error)
    raise DataError(f"{TRIES} consecutive images are unusable; the last one is {named}")
