"""Make the batches that train a head: a pure function of the step."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from perception_encoder.data.sampler import Position, WeightedSampler
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.dense_training.samples import Augmenter, DenseSamples, Targets
from perception_encoder.dense_training.task import DenseBatch
from perception_encoder.errors import DataError, InputError
from perception_encoder.models.layers import drop_path
from perception_encoder.ranks import Rank
from perception_encoder.training.seed import torch_generator

logger = logging.getLogger(__name__)

TRIES = 8
"""Maximum number of images to try for one row."""


class DenseBatches:
    """Makes a rank's share of the batch of each step."""

    def __init__(
        self,
        config: DenseConfig,
        samples: DenseSamples,
        rank: Rank,
        depth: int,
        padding: Sequence[int],
        factors: Float[Tensor, " n"] | None = None,
    ) -> None:
        """`depth`: blocks of the encoder. `padding`: see `Augmenter`. `factors`: how often each image is shown in an
        epoch, on average; by default once."""
        self.config, self.samples, self.rank, self.depth = config, samples, rank, depth
        self.sampler: WeightedSampler | RepeatSampler = (
            WeightedSampler([len(samples.keys)], [1.0], config.batch_size, config.seed)
            if factors is None
            else RepeatSampler(factors, config.batch_size, config.seed)
        )
        self.augmenter = Augmenter(config.image_size, config.scales, config.flip, padding)
        self._bad = set[str]()

    def __call__(self, step: int) -> DenseBatch:
        drawn = self.sampler.positions(step)
        own = self.rank.share(len(drawn))
        rows, branches = range(len(drawn))[own], None
        if self.config.drop_path:
            generator = torch_generator(self.config.seed, 3, step)
            branches = drop_path(self.depth, len(drawn), self.config.drop_path, generator, linear=True)[..., own]
        made = [self._make(drawn[row], torch_generator(self.config.seed, 2, step, row)) for row in rows]
        images = torch.stack([image for image, _ in made])
        return DenseBatch(images, [targets for _, targets in made], step, len(made) / len(drawn), branches)

    def _make(self, position: Position, generator: torch.Generator) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """Return the image at a position; if it is unusable, the one that is due a step later, and so on."""
        for later in range(TRIES):
            index = self.sampler.index(position, later)
            try:
                return self.augmenter(*self.samples.read(index), generator)
            except InputError as error:
                if self.samples.keys[index] not in self._bad:
                    self._bad.add(self.samples.keys[index])
                    logger.warning("skipped %s", error)
        raise DataError(f"{TRIES} consecutive images are unusable; the last one is {self.samples.keys[index]}")


class RepeatSampler:
    """Shows each image in an epoch as often as its factor, which every epoch rounds up or down at random."""

    def __init__(self, factors: Float[Tensor, " n"], batch_size: int, seed: int) -> None:
        self.factors, self.batch_size, self.seed = factors, batch_size, seed
        self._ends: list[int] = []
        self._order: tuple[int, list[int]] = (-1, [])

    def positions(self, step: int) -> list[Position]:
        """Return the positions that `step` (from 0) draws."""
        return [(0, place) for place in range(step * self.batch_size, (step + 1) * self.batch_size)]

    def index(self, position: Position, later: int = 0) -> int:
        """Return the image at a position, or at the one that is due `later` steps after it."""
        place = position[1] + later * self.batch_size
        while not self._ends or self._ends[-1] <= place:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.epoch(len(self._ends))))
        number = bisect_right(self._ends, place)
        if self._order[0] != number:
            self._order = number, self.epoch(number)
        return self._order[1][place - self._ends[number]]  # from the end: negative

    def epoch(self, number: int) -> list[int]:
        """Return the images of an epoch (from 0) in order."""
        generator = torch_generator(self.seed, 7, number)
        drawn = torch.rand(len(self.factors), generator=generator)
        times = self.factors.floor() + (drawn < self.factors - self.factors.floor())
        rows = torch.repeat_interleave(torch.arange(len(times)), times.long())
        return rows[torch.randperm(len(rows), generator=generator)].tolist()
