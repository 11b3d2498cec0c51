"""Training batches out of image-text sets: a pure function of the step.

Every step draws samples from the sources by weight, a caption for each, and an augmentation; captions are encoded
once each, and a picture's positives are all captions of the batch that are true of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.captions import captions
from perception_encoder.data.image_text import ImageTextSample, ImageTextSet
from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.augmentation import Augmentation, augment
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.ranks import ALONE, Rank


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run at one resolution (progressive resolution, step 2 of section 2.1)."""

    image_size: int
    """Side of the square training picture, in pixels."""
    steps: int
    batch_size: int | None = None
    """Pairs a step; by default the run's."""


class PairBatches:
    """`batches(step)` → `ImageTextBatch`, or a rank's part of it: together the ranks see what one process would see.

    `masks(pictures, patches, generator)` draws rows to copy (M,) and what to hide of each (M, patches), for pictures
    of `patch` px a patch. Without it nothing is masked.
    """

    def __init__(
        self,
        sets: Sequence[ImageTextSet],
        weights: Sequence[float],
        batch_size: int,
        stages: Sequence[Stage],
        augmentation: Augmentation | None,
        tokenize: Callable[[list[str]], Tensor],
        seed: int,
        *,
        rank: Rank = ALONE,
        masks: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]] | None = None,
        patch: int = 16,
    ) -> None:
        if not stages or min(stage.steps for stage in stages) < 1:
            raise ConfigError("a run needs stages of at least one step each")
        sizes = [stage.batch_size or batch_size for stage in stages]
        if min(sizes) < rank.of:
            raise ConfigError(f"a batch of {min(sizes)} cannot be shared by {rank.of} ranks; it needs one pair each")
        self.sets, self.rank, self.masks, self.patch = sets, rank, masks, patch
        self.samplers = [WeightedSampler([len(s) for s in sets], weights, size, seed) for size in sizes]
        self.ends = list(accumulate(stage.steps for stage in stages))
        self.stages, self.augmentation, self.tokenize, self.seed = stages, augmentation, tokenize, seed

    def __call__(self, step: int) -> ImageTextBatch:
        """The batch of a step (0-based)."""
        generator = np.random.default_rng([self.seed, step])
        stage = self.stage(step)
        samples = [self.sets[source][index] for source, index in self.samplers[stage].batch(step)]
        texts = list(dict.fromkeys(sample.caption(generator) for sample in samples))
        draws = torch.Generator().manual_seed(int(generator.integers(2**62)))
        size, own = self.stages[stage].image_size, self.rank.share(len(samples))
        pictures = augment([sample.image for sample in samples], size, self.augmentation, draws, own)
        own_texts = self.rank.share(len(texts))
        batch = ImageTextBatch(
            pictures,
            trim(self.tokenize(texts)[own_texts]),
            true_pairs(samples, texts),
            own,
            own_texts,
            tuple(texts[own_texts]),
        )
        if self.masks is None:
            return batch
        rows, masks = self.masks(len(samples), (size // self.patch) ** 2, draws)
        here = (own.start <= rows) & (rows < own.stop)
        share = here.float().mean().item()
        return replace(batch, masked=rows[here] - own.start, masks=masks[here], masked_share=share)

    def stage(self, step: int) -> int:
        """The number of the stage that a step belongs to."""
        return next(number for number, end in enumerate(self.ends) if step < end)

    def image_size(self, step: int) -> int:
        """The resolution of a step, in pixels."""
        return self.stages[self.stage(step)].image_size


def true_pairs(samples: Sequence[ImageTextSample], texts: Sequence[str]) -> Tensor:
    """Which captions (U) are true of which samples (B): bool (B, U)."""
    row_of = {text: row for row, text in enumerate(texts)}
    positives = torch.zeros(len(samples), len(texts), dtype=torch.bool)
    for row, sample in zip(positives, samples, strict=True):
        row[[row_of[text] for text in all_captions(sample) & row_of.keys()]] = True
    return positives


def all_captions(sample: ImageTextSample) -> frozenset[str]:
    """Every caption that may be drawn for a sample."""
    return _all_captions(_freeze(sample.metadata), sample.colours)


@cache
def _all_captions(metadata: tuple[tuple[str, object], ...], colours: tuple[str, ...]) -> frozenset[str]:
    return frozenset(text for texts in captions(dict(metadata), colours).values() for text in texts)


def _freeze(metadata: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    """The part of a sample's metadata that captions are made of, hashable."""
    fields = ("source", "label", "coarse", "description", "kids", "tags")
    values = ((name, metadata[name]) for name in fields if name in metadata)
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values)
