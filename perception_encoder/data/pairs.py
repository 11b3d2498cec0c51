"""Make training batches of image-text pairs, from memory or shards, as a pure function of the seed and the step.

Each distinct caption is encoded once, and an image's positives are all captions of the batch that match it. An
unreadable sample is replaced by the one that the same row would draw a step later, the same on any number of ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate, chain
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from perception_encoder.data.sampler import TRIES, Position, WeightedSampler
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.preprocess.augmentation import (
    DRAWS,
    MIXING_DRAWS,
    Augmentation,
    Mixing,
    augment,
    mix,
    needed_side,
)
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.ranks import ALONE, Rank
from perception_encoder.records import Checked, Count, CountOrZero
from perception_encoder.transfer import to_device

logger = logging.getLogger(__name__)

FEWEST = 1000  # minimum number of samples that a share of bad ones refers to
SHARES: Mapping[str, float] = {"template": 0.8, "label": 0.2}
"""Share of each kind of caption that is made from a label."""

T = TypeVar("T")
R = TypeVar("R")


class TensorBatch:
    """A dataclass that holds tensors, also in lists and by name."""

    host: ClassVar[frozenset[str]] = frozenset()
    """Fields that stay on the CPU, where their values are read: reading them from a GPU waits for it."""

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device, except those of `host`."""
        whole: Any = self
        values = {item.name: getattr(self, item.name) for item in fields(whole) if item.name not in self.host}
        return replace(whole, **{name: _moved(value, device) for name, value in values.items()})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return to_device(value, device) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class ImageTextBatch(TensorBatch):
    """Images, the distinct captions drawn for them, and which captions match which images."""

    host = frozenset({"tokens", "masks"})

    images: Tensor  # uint8 (b, 3, H, W)
    tokens: Tensor  # int64 (u, T), cut to the longest caption
    image_positives: Tensor
    """Which captions of the whole batch match these images: bool (b, U), or float for mixed images."""
    text_positives: Tensor  # which images of the whole batch these captions match: (u, B), also bool or float
    own_images: slice = field(default_factory=lambda: slice(None))
    """The rows of the whole batch that `images` holds."""
    own_tokens: slice = field(default_factory=lambda: slice(None))
    """The captions of the whole batch that `tokens` holds."""
    texts: tuple[str, ...] = ()  # the captions in `tokens`, as strings
    masked: Tensor | None = None  # rows of `images` whose copies are masked, int64 (M,)
    masks: Tensor | None = None  # hidden patches of those copies, bool (M, h·w)
    masked_share: float = 0.0  # these copies as a share of the whole batch's masked copies
    left_out: int = 0  # number of unreadable samples replaced since the run was started or resumed

    def __len__(self) -> int:
        return self.text_positives.shape[1]


@dataclass(frozen=True, kw_only=True)
class ImageBatch(TensorBatch):
    """A rank's share of a batch of images."""

    images: Tensor  # uint8 (b, 3, H, W)
    share: float  # this rank's share of the batch's images

    def __len__(self) -> int:
        """Number of images in the whole batch."""
        return round(len(self.images) / self.share)


@dataclass(frozen=True)
class Pair:
    """An image or a video, with captions."""

    image: Tensor  # uint8 (3, H, W), or the frames of a video (F, 3, H, W)
    texts: Mapping[str, Sequence[str]]  # captions by kind or field
    shares: Mapping[str, float]  # share of each of these in the drawn captions
    label: str = ""  # the image's content in a few words; empty if only captions are known

    @classmethod
    def of(cls, image: Tensor, label: str, texts: Sequence[str]) -> Self:
        """Return an image with its captions, or if there are none with those that are made from its label."""
        if texts:
            return cls(image, {"caption": texts}, {"caption": 1.0}, label)
        return cls(image, captions(object_name({"label": label})), SHARES, label)

    @property
    def captions(self) -> frozenset[str]:
        return frozenset(text for texts in self.texts.values() for text in texts)

    def caption(self, generator: np.random.Generator) -> str:
        """Draw a kind by its share, rescaled to the available kinds, then one of its texts."""
        weights = np.array([self.shares[kind] for kind in self.texts])
        kind = list(self.texts)[int(generator.choice(len(weights), p=weights / weights.sum()))]
        return self.texts[kind][int(generator.integers(len(self.texts[kind])))]


def object_name(metadata: Mapping[str, Any]) -> str:
    """Return the name of a sample's object, the same text in every source: its label in lower case."""
    return " ".join(str(metadata["label"]).lower().split())


def captions(label: str) -> dict[str, list[str]]:
    """Return the captions of a label by kind, the keys of `SHARES`."""
    return {"template": [template.format(label) for template in PHOTO_TEMPLATES], "label": [label, f"{label}."]}


class PairSource(Protocol):
    """A source of pairs: `ImageTextSet` in memory, `ShardSet` from shards."""

    @property
    def sizes(self) -> Sequence[int]: ...

    def load(self, index: int, needed: int) -> Pair:
        """Load a sample, perhaps reducing its image to the side `needed`; InputError if it cannot be read."""
        ...


class SourcePart:
    """A part of a source, also a `PairSource`: every n-th sample of each shard if `chosen`, else all others."""

    def __init__(self, source: PairSource, every: int, chosen: bool) -> None:
        self.source, self.every, self.chosen = source, every, chosen
        counts = [size // every for size in source.sizes]
        self.sizes = counts if chosen else [size - n for size, n in zip(source.sizes, counts, strict=True)]
        self._ends, self._starts = np.cumsum(self.sizes), np.cumsum(source.sizes) - source.sizes

    def load(self, index: int, needed: int) -> Pair:
        """Load a sample of the part."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard]) + self.sizes[shard]
        row = row * self.every + self.every - 1 if self.chosen else row + row // (self.every - 1)
        return self.source.load(int(self._starts[shard]) + row, needed)


@dataclass(frozen=True, kw_only=True)
class ResolutionStage(Checked):
    """A part of a run at one resolution (progressive resolution, step 2 of section 2.1)."""

    image_size: CountOrZero = 0
    """Side of the square training image, in pixels; 0 for the model's size."""
    steps: Count
    """Optimizer steps."""


@dataclass(frozen=True)
class _Row:
    """One row of a batch."""

    pixels: Tensor  # uint8 (3, S, S)
    text: str
    captions: AbstractSet[str]


def alone(value: T) -> list[T]:
    """Return the values of all ranks of a single-rank run."""
    return [value]


class PairBatches:
    """`batches(step)` → `ImageTextBatch`, or a rank's share of it; the union of shares is what one process would see.

    Args:
        masks: `masks(images, patches, generator)` draws rows to copy (M,) and the patches to hide in each (M, patches);
            without it nothing is masked.
        patch: Pixels of a patch that is hidden.
        exchange: `exchange(value)` returns all ranks' values, in order.
        mixing: Mix each image with the one in the opposite row of the batch, and their positives with the same shares;
            with several ranks, an image may be read twice.
        workers: Threads that read and augment; 1 is the calling thread.
        bad_share: Share of all samples so far (at least a thousand) that may be unreadable before a DataError.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        weights: Sequence[float],
        batch_size: int,
        stages: Sequence[ResolutionStage],
        augmentation: Augmentation | None,
        tokenize: Callable[[list[str]], Tensor],
        seed: int,
        *,
        rank: Rank = ALONE,
        exchange: Callable[[Any], list[Any]] = alone,
        masks: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]] | None = None,
        mixing: Mixing | None = None,
        patch: int = 16,
        workers: int = 1,
        bad_share: float = 0.0,
    ) -> None:
        if batch_size < rank.world_size:
            raise ConfigError(
                f"a batch of {batch_size} cannot be shared by {rank.world_size} ranks; each needs at least one pair"
            )
        self.sources, self.rank, self.exchange, self.masks, self.patch = sources, rank, exchange, masks, patch
        self.mixing = mixing
        self.ends = list(accumulate(stage.steps for stage in stages))
        self.sampler = WeightedSampler([source.sizes for source in sources], weights, batch_size, seed)
        self.stages, self.augmentation, self.tokenize, self.seed = stages, augmentation, tokenize, seed
        self.bad_share, self.workers, self._seen, self._bad = bad_share, workers, 0, 0
        self._pool = ThreadPoolExecutor(workers, "pairs", torch.set_num_threads, (1,)) if workers > 1 else None

    def __call__(self, step: int) -> ImageTextBatch:
        size, positions = self.image_size(step), self.sampler.positions(step)
        seed = np.random.default_rng([self.seed, step]).integers(2**62)
        generator = torch.Generator().manual_seed(int(seed))
        draws = torch.rand(len(positions), DRAWS, generator=generator)
        mine = self.rank.share(len(positions))
        rows, bad = self._read(step, positions, draws, range(mine.start, mine.stop))
        texts = self._all_texts([row.text for row in rows.values()], bad, len(positions))
        my_texts = self.rank.share(len(texts))
        images, true_texts = _stack(list(rows.values()), texts)
        if self.mixing is not None:
            others = [len(positions) - 1 - row for row in rows]
            rows |= self._read(step, positions, draws, [row for row in others if row not in rows])[0]
            other_images, other_true = _stack([rows[row] for row in others], texts)
            mixing_draws = torch.rand(len(positions), MIXING_DRAWS, generator=generator)[mine]
            images, shares = mix(images, other_images, self.mixing, mixing_draws)
            true_texts = torch.lerp(other_true.float(), true_texts.float(), shares[:, None])
        true_images = self._true_images(mine.start, true_texts, my_texts, len(positions))
        tokens = trim(self.tokenize(texts[my_texts]))
        words = tuple(texts[my_texts])
        batch = ImageTextBatch(images, tokens, true_texts, true_images, mine, my_texts, words, left_out=self._bad)
        if self.masks is None:
            return batch
        masked, masks = self.masks(len(positions), (size // self.patch) ** 2, generator)
        ours = (mine.start <= masked) & (masked < mine.stop)
        share = ours.float().mean().item()
        return replace(batch, masked=masked[ours] - mine.start, masks=masks[ours], masked_share=share)

    def _true_images(self, first: int, true_texts: Tensor, my_texts: slice, size: int) -> Tensor:
        """Return how well this rank's captions match the images of all ranks: (u, B)."""
        truth = torch.zeros(my_texts.stop - my_texts.start, size, dtype=true_texts.dtype)
        pairs = true_texts.nonzero(as_tuple=True)
        for start, rows, columns, shares in self.exchange((first, *pairs, true_texts[pairs])):
            ours = (my_texts.start <= columns) & (columns < my_texts.stop)
            truth[columns[ours] - my_texts.start, start + rows[ours]] = shares[ours]
        return truth

    def _read(
        self, step: int, positions: Sequence[Position], draws: Tensor, rows: Sequence[int]
    ) -> tuple[dict[int, _Row], list[InputError]]:
        """Return rows by number and the errors; a row is missing if `TRIES` consecutive samples are bad."""
        sampler, done, errors = self.sampler, dict[int, _Row](), list[InputError]()
        missing = list(rows)
        for later in range(TRIES):
            jobs = [
                (row, positions[row][0], sampler.index(positions[row], later), draws[row].tolist()) for row in missing
            ]
            for row, result in zip(missing, self._map(partial(self._read_row, step), jobs), strict=True):
                if isinstance(result, InputError):
                    logger.warning("skipped %s; the next sample replaces it", result)
                    errors.append(result)
                else:
                    done[row] = result
            missing = [row for row in missing if row not in done]
        return {row: done[row] for row in rows if row in done}, errors

    def _read_row(self, step: int, job: tuple[int, int, int, Sequence[float]]) -> _Row | InputError:
        row, source, index, draw = job
        size = self.image_size(step)
        try:
            needed = needed_side(size, self.augmentation)
            pair = self.sources[source].load(index, needed)
        except InputError as error:
            return error
        text = pair.caption(np.random.default_rng([self.seed, step, row]))
        return _Row(augment(pair.image, size, self.augmentation, draw), text, pair.captions)

    def _map(self, work: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        if self._pool is None:
            return map(work, items)
        size = max(1, len(items) // (4 * self.workers))
        chunks = [items[at : at + size] for at in range(0, len(items), size)]
        return chain.from_iterable(self._pool.map(lambda chunk: list(map(work, chunk)), chunks))

    def _all_texts(self, texts: list[str], bad: Sequence[InputError], size: int) -> list[str]:
        """Return the distinct captions of all ranks; DataError if too many samples are bad."""
        shared = self.exchange((texts, [str(error) for error in bad]))
        errors = [error for _, item in shared for error in item]
        self._seen, self._bad = self._seen + size, self._bad + len(errors)
        if sum(len(texts) for texts, _ in shared) < size:
            raise DataError(f"{TRIES} samples in a row could not be read; the last was {errors[-1]}")
        if self._bad > self.bad_share * max(self._seen, FEWEST):
            raise DataError(
                f"{self._bad} samples of {self._seen} could not be read, more than bad_share={self.bad_share:g} of them"
                f" (of {FEWEST} at least); the last was {errors[-1]}"
            )
        return list(dict.fromkeys(text for texts, _ in shared for text in texts))

    def stage(self, step: int) -> int:
        return next(number for number, end in enumerate(self.ends) if step < end)

    def image_size(self, step: int) -> int:
        return self.stages[self.stage(step)].image_size


def _stack(rows: Sequence[_Row], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the images of rows (B, 3, S, S), and which texts match them: bool (B, U)."""
    return torch.stack([row.pixels for row in rows]), true_pairs([row.captions for row in rows], texts)


def true_pairs(captions: Sequence[AbstractSet[str]], texts: Sequence[str]) -> Tensor:
    """Return which texts (U) are among the captions of each sample (B): bool (B, U)."""
    column_of = {text: column for column, text in enumerate(texts)}
    positives = torch.zeros(len(captions), len(texts), dtype=torch.bool)
    for row, true in zip(positives, captions, strict=True):
        row[[column_of[text] for text in true & column_of.keys()]] = True
    return positives
