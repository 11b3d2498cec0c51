"""Make the batches of a head's training: a pure function of the step."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from perception_encoder.data.sampler import Position, WeightedSampler
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.dense_training.samples import Augmenter, DenseSamples, Targets
from perception_encoder.dense_training.task import DenseBatch
from perception_encoder.errors import DataError, InputError
from perception_encoder.models.layers.block import drop_path
from perception_encoder.ranks import Rank
from perception_encoder.train.seed import torch_generator

logger = logging.getLogger(__name__)

TRIES = 8
"""Images that are tried for one row."""


class DenseBatches:
    """A rank's part of the batch of each step."""

    def __init__(
        self, config: DenseConfig, samples: DenseSamples, rank: Rank, depth: int, rows: Sequence[int] | None = None
    ) -> None:
        """`depth`: blocks of the encoder. `rows`: the images of an epoch, some more than once; by default each once."""
        self.config, self.samples, self.rank, self.depth = config, samples, rank, depth
        self.rows = range(len(samples.keys)) if rows is None else rows
        self.sampler = WeightedSampler([len(self.rows)], [1.0], config.batch_size, config.seed)
        self.augmenter = Augmenter(config.image_size, config.scales, config.flip)
        self._bad = set[str]()

    def __call__(self, step: int) -> DenseBatch:
        drawn = self.sampler.positions(step)
        own = self.rank.share(len(drawn))
        rows, branches = range(len(drawn))[own], None
        if self.config.drop_path:
            generator = torch_generator(self.config.seed, 3, step)
            branches = drop_path(self.depth, len(drawn), self.config.drop_path, generator)[..., own]
        made = [self._make(drawn[row], torch_generator(self.config.seed, 2, step, row)) for row in rows]
        images = torch.stack([image for image, _ in made])
        return DenseBatch(images, [targets for _, targets in made], step, len(made) / len(drawn), branches)

    def _make(self, position: Position, generator: torch.Generator) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """The image at a position; if it cannot be used, the one whose turn it would be a step later, and so on."""
        for later in range(TRIES):
            index = self.rows[self.sampler.index(position, later)]
            try:
                return self.augmenter(*self.samples.read(index), generator)
            except InputError as error:
                if self.samples.keys[index] not in self._bad:
                    self._bad.add(self.samples.keys[index])
                    logger.warning("left out %s", error)
        raise DataError(f"{TRIES} images in a row could not be used; the last was {self.samples.keys[index]}")
