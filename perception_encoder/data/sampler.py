"""Which samples make the batch of a step: a pure function of the seed and the step, so resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_encoder.errors import ConfigError


class WeightedSampler:
    """Mixes several sources in fixed shares; each source is gone through in a new random order every epoch.

    A batch holds the same number of samples of each source, its share of `batch_size` rounded (at least one
    where the weight is positive). The next batch goes on where the last one stopped.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int) -> None:
        """Mix sources of `sizes` samples by `weights` (any positive scale); `ConfigError` where that is impossible."""
        if len(sizes) != len(weights) or not sizes:
            raise ConfigError(f"{len(sizes)} sources and {len(weights)} weights; give one weight a source")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ConfigError(f"weights {list(weights)}: none may be negative and one must be positive")
        empty = [i for i, (size, weight) in enumerate(zip(sizes, weights, strict=True)) if weight and size < 1]
        if empty:
            raise ConfigError(f"sources {empty} have a weight but no samples")
        self.sizes = tuple(sizes)
        self.seed = seed
        self.counts = _apportion(weights, batch_size)
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The samples of `step` (from 0), in random order, as (source, index within the source)."""
        picked = []
        for source, count in enumerate(self.counts):
            for position in range(step * count, (step + 1) * count):
                epoch, offset = divmod(position, self.sizes[source])
                picked.append((source, int(self._order(source, epoch)[offset])))
        shuffle = np.random.default_rng([self.seed, 1, step]).permutation(len(picked))
        return [picked[i] for i in shuffle]

    def _order(self, source: int, epoch: int) -> np.ndarray:
        """The order of a source in an epoch; the last two epochs are kept, as a batch may span them."""
        key = (source, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source or k[1] == epoch - 1}
            generator = np.random.default_rng([self.seed, 0, source, epoch])
            self._orders[key] = generator.permutation(self.sizes[source])
        return self._orders[key]


def _apportion(weights: Sequence[float], batch_size: int) -> tuple[int, ...]:
    """Split `batch_size` by `weights`: largest remainders, but one sample at least for a positive weight."""
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
