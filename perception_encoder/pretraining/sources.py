"""Open the data of a run: directories and tables read into memory, or shards read on demand."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perception_encoder.data.pairs import Pair, PairSource, SourcePart
from perception_encoder.data.streams import Shards, open_shards
from perception_encoder.datasets.labelled import held_out_rows
from perception_encoder.datasets.training_files import FileSample, has_split, read_split
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.shards import Labelled
from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.towers import CaptionVocabulary
from perception_encoder.progress import Track, untracked
from perception_encoder.training.config import ValidationConfig
from perception_encoder.training.distributed import this_rank

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTextSample(Labelled):
    """A decoded image with its metadata."""

    key: str
    image: torch.Tensor  # (3, H, W) uint8
    metadata: Mapping[str, Any]
    texts: tuple[str, ...] = ()  # captions; if empty, captions are made from the label
    of_shard: bool = True  # whether the sample is from a shard rather than a directory or a table

    @property
    def pair(self) -> Pair:
        """The image with its captions, or with those made from its label."""
        return Pair.of(self.image, self.label, self.texts)


class ImageTextSet(list[ImageTextSample]):
    """Samples in memory, a `PairSource`."""

    @property
    def sizes(self) -> list[int]:
        return [len(self)]

    def load(self, index: int, needed: int) -> Pair:
        return self[index].pair

    def by_source(self) -> dict[str, ImageTextSet]:
        """Return one set for each `source` of the metadata, sorted by name; the images are shared, not copied."""
        names = sorted({sample.source for sample in self})
        return {name: ImageTextSet(sample for sample in self if sample.source == name) for name in names}

    def every(self, count: int, others: bool = False) -> ImageTextSet:
        """Return the set of every `count`-th sample, or of all others."""
        return ImageTextSet(sample for number, sample in enumerate(self, 1) if bool(number % count) == others)

    def thinned(self, size: int) -> ImageTextSet:
        """Return the set of at most `size` evenly spaced samples."""
        return self.every(max(1, -(-len(self) // size)))

    def balanced(self, power: float = 0.5) -> ImageTextSet:
        """Return the set with samples of rare labels repeated (images are not copied).

        A label with n samples, where the most frequent has m, is repeated (m / n) ** power times, rounded.
        """
        counts = Counter(sample.label for sample in self)
        most = max(counts.values(), default=0)
        repeats = {label: round((most / count) ** power) for label, count in counts.items()}
        return ImageTextSet(sample for sample in self for _ in range(repeats[sample.label]))


ReadPairs = Callable[[Sequence[Path], str, int, Track], ImageTextSet]
"""Reads a split of directories or tables; see `read_pairs`."""


def read_pairs(
    paths: Sequence[Path], split: str = "train", image_side: int = 160, track: Track = untracked
) -> ImageTextSet:
    """Read a split of some directories, tables or tar files into memory, in order.

    Images whose short side is over `image_side` px are scaled to it, none is enlarged. Raises DataError if there is no
    such split, or if a shard is damaged. An image that cannot be decoded is logged and left out.
    """
    samples = ImageTextSet()
    for path in paths:
        raw = read_split(path, split)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda sample: _decode(sample, image_side), raw)
            samples += filter(None, track(decoded, f"reading {path.name} {split}", len(raw)))
    return samples


def _decode(sample: FileSample, image_side: int) -> ImageTextSample | None:
    """Decode a sample, at most `image_side` px on the short side; log a bad one and return None."""
    of_shard = isinstance(sample.image, bytes)
    try:
        if not isinstance(sample.image, bytes | Path):
            raise InputError(sample.key, "is a clip of a video; to train on videos, give shards")
        reduce_to = None if of_shard else image_side
        rgb = open_image(sample.image, sample.key, reduce_to=reduce_to).convert("RGB")
    except InputError as error:
        logger.warning("left out %s: %s", sample.key, error.reason)
        return None
    short = min(rgb.size)
    if short > image_side:
        width, height = (max(image_side, round(side * image_side / short)) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))  # (3, H, W)
    return ImageTextSample(sample.key, torch.from_numpy(pixels), sample.metadata, sample.texts, of_shard)


HeldOutPair = tuple[PairSource, int]  # a source with the index of a sample in it


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Sources of a run's pairs."""

    sets: Sequence[PairSource]
    weights: Sequence[float]
    names: Sequence[str]  # identity of the data: the names of its samples, or its shards
    samples: Mapping[str, int]  # number of samples by source
    vocabulary: CaptionVocabulary | None  # tokens of all captions; None if unknown in advance
    validation: Sequence[HeldOutPair] = ()  # held-out pairs, if the run has validation


def open_sources(
    config: PretrainingConfig,
    data: Sequence[Path | Shards],
    model: CLIP,
    exchange: Callable[[Any], list[Any]],
    track: Track,
    read: ReadPairs = read_pairs,
) -> Sources:
    """Open directories, read by `read`, or shards; DataError for both at once or for unusable data."""
    paths = [source for source in data if isinstance(source, Path)]
    shards = [source for source in data if isinstance(source, Shards)]
    if paths and shards:
        raise DataError(f"{paths[0]} is read into memory, but {shards[0].location} is streamed; give one kind of data")
    if shards:
        return _stream(config, shards, exchange, track)
    return _load(config, paths, model, track, read)


def _load(config: PretrainingConfig, paths: Sequence[Path], model: CLIP, track: Track, read: ReadPairs) -> Sources:
    if config.frames is not None:
        raise DataError("the run needs videos, which are read from shards: give --shards PATH")
    side = config.image_side or 160
    by_source = read(paths, "train", side, track).by_source()
    if not by_source:
        raise DataError(f"no usable image in {', '.join(map(str, paths))}")
    used = _weigh(config.weights, by_source)
    if not used:
        raise DataError(f"the data lack the sources {', '.join(config.weights)}; they have {', '.join(by_source)}")
    held_out: list[ImageTextSet] = []
    if (validation := config.validation) is not None:
        if with_split := [path for path in paths if has_split(path, "val")]:
            samples = [sample for sample in read(with_split, "val", side, track) if sample.source in used]
            held_out = [ImageTextSet(samples).thinned(validation.size)] if samples else []
        if not held_out and (every := _every(validation, sum(len(by_source[source]) for source in used))):
            parts = {source: _hold_out(by_source[source], validation, every) for source in used}
            held_out = [part for part, _ in parts.values()]
            by_source |= {source: rest for source, (_, rest) in parts.items()}
            used = _weigh(config.weights, by_source)
    texts = {text for source in used for sample in by_source[source] for text in sample.pair.captions}
    names = [f"{source}/{sample.key}" for source in used for sample in by_source[source]]
    return Sources(
        sets=[by_source[source].balanced(config.balance) for source in used],
        weights=list(used.values()),
        names=names + [f"validation {sample.source}/{sample.key}" for part in held_out for sample in part],
        samples={source: len(by_source[source]) for source in used},
        vocabulary=CaptionVocabulary(tokenizer(model), texts),
        validation=[(part, index) for part in held_out for index in range(len(part))],
    )


def _hold_out(samples: ImageTextSet, validation: ValidationConfig, every: int) -> tuple[ImageTextSet, ImageTextSet]:
    """Return the samples for validation and those for training.

    From class directories and tables, the former are those that evaluations hold out too: see `held_out_rows`.
    """
    if samples[0].of_shard:
        return samples.every(every), samples.every(every, others=True)
    rows = {*held_out_rows([s.key for s in samples], [s.label for s in samples], validation.share)}
    both = ([sample for row, sample in enumerate(samples) if (row in rows) == chosen] for chosen in (True, False))
    held_out, rest = map(ImageTextSet, both)
    return held_out.thinned(validation.size), rest


def _every(validation: ValidationConfig, count: int) -> int | None:
    """Return N such that one sample in N is held out; None if none are."""
    if not validation.share:
        return None
    return max(2, round(1 / validation.share), -(-count // validation.size))


def _weigh(weights: Mapping[str, float], by_source: Mapping[str, ImageTextSet]) -> dict[str, float]:
    """Return the weights of the used sources: the given ones, or the numbers of samples.

    A class directory or table without a weight counts by its number of samples.
    """
    sizes = {source: float(len(samples)) for source, samples in by_source.items()}
    if not weights:
        return sizes
    used = {source: weight for source, weight in weights.items() if weight > 0 and source in by_source}
    per_sample = sum(used.values()) / sum(sizes[source] for source in used) if used else 1.0
    unnamed = [source for source, samples in by_source.items() if source not in weights and not samples[0].of_shard]
    return used | {source: sizes[source] * per_sample for source in unnamed}


def _stream(
    config: PretrainingConfig, shards: Sequence[Shards], exchange: Callable[[Any], list[Any]], track: Track
) -> Sources:
    opened = open_shards(shards, config.streams, this_rank(), exchange, track, config.frames)
    weighted = [(source.weight, shard) for source, part in zip(shards, opened, strict=True) for shard in part.shards]
    sets, validation = list[PairSource](opened), list[HeldOutPair]()
    if config.validation is not None and (every := _every(config.validation, sum(map(len, opened)))):
        sets = [SourcePart(part, every, chosen=False) for part in opened]
        parts = [SourcePart(part, every, chosen=True) for part in opened]
        validation = [(part, index) for part in parts for index in range(sum(part.sizes))]
    return Sources(
        sets=sets,
        weights=[source.weight for source in shards],
        names=[f"{weight} {shard.name} {shard.size} {dict(shard.samples)}" for weight, shard in weighted],
        samples={source.location: sum(part.sizes) for source, part in zip(shards, sets, strict=True)},
        vocabulary=None,
        validation=validation,
    )
