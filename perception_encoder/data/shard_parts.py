"""Split a source of pairs in two: every n-th sample of each shard, and all others."""

from __future__ import annotations

import numpy as np

from perception_encoder.data.pairs import Pair, PairSource
from perception_encoder.preprocess.image import NeededSide


class SourcePart:
    """A part of a source (a `PairSource` itself): every n-th sample of each shard if `chosen`, else the others."""

    def __init__(self, source: PairSource, every: int, chosen: bool) -> None:
        self.source, self.every, self.chosen = source, every, chosen
        counts = [size // every for size in source.sizes]
        self.sizes = counts if chosen else [size - n for size, n in zip(source.sizes, counts, strict=True)]
        self._ends, self._starts = np.cumsum(self.sizes), np.cumsum(source.sizes) - source.sizes

    def load(self, index: int, needed: NeededSide) -> Pair:
        """Load a sample of the part."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard]) + self.sizes[shard]
        row = row * self.every + self.every - 1 if self.chosen else row + row // (self.every - 1)
        return self.source.load(int(self._starts[shard]) + row, needed)
