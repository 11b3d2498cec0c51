"""Read image-text samples into memory: images of shards, class directories or tables as uint8 tensors, with metadata.

In the split `train`, a shard of another split or a held-out source is an error; held-out classes are left out.
"""

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

from perception_encoder.data.captions import (
    PHOTO,
    SHARES,
    CaptionStyle,
    SourceRules,
    captions,
    colour_words,
    concept,
    wrong_field,
)
from perception_encoder.data.pairs import Pair
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.formats.shards import find_shards, read_shard, shards_below
from perception_encoder.preprocess.image import open_image
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSample:
    """An undecoded image, as a file or its content in a shard, and what is known about it."""

    key: str
    image: MediaSource
    metadata: Mapping[str, Any]
    """The `source`, by default the name of the directory or table, and the `label`, empty if there are captions."""
    texts: tuple[str, ...] = ()
    """Cleaned captions; if empty, captions are made from the label."""


ReadFiles = Callable[[Path, str], Sequence[FileSample]]
"""Reads a split of a directory or table, undecoded and in order; DataError if the split is missing."""


@dataclass(frozen=True)
class ImageTextSample:
    """A decoded image with its metadata."""

    key: str
    image: torch.Tensor
    """(3, H, W) uint8."""
    metadata: Mapping[str, Any]
    colours: tuple[str, ...]
    """Names of the dominant colours, for captions."""
    style: CaptionStyle = PHOTO
    texts: tuple[str, ...] = ()
    """Captions; if empty, captions are made from the metadata."""
    of_shard: bool = True
    """Whether the sample is from a shard rather than a directory or a table."""

    @property
    def source(self) -> str:
        """The collection it belongs to."""
        return str(self.metadata["source"])

    @property
    def label(self) -> str:
        """The image's class."""
        return str(self.metadata["label"])

    @property
    def pair(self) -> Pair:
        """The image with its captions, or with those made from the metadata and colours."""
        if self.texts:
            return Pair(self.image, {"caption": self.texts}, {"caption": 1.0}, self.label)
        return Pair(self.image, captions(self.metadata, self.colours, self.style), SHARES, self.label)


class ImageTextSet(Sequence[ImageTextSample]):
    """Samples in memory."""

    def __init__(self, samples: Sequence[ImageTextSample]) -> None:
        self.samples = list(samples)

    @classmethod
    def from_directory(
        cls,
        paths: Path | Sequence[Path],
        split: str = "train",
        image_side: int = 160,
        track: Track = untracked,
        *,
        rules: SourceRules | None = None,
        read_files: ReadFiles | None = None,
    ) -> ImageTextSet:
        """Load a split of some directories or tar files; `read_files` reads those without shards.

        Images whose short side is over `image_side` px are scaled to it, none is enlarged.
        Raises `DataError` if there is no such split, if a shard is damaged, and if training data holds held-out
        sources. An image that cannot be decoded is logged and left out.
        """
        paths, rules = [paths] if isinstance(paths, Path) else list(paths), rules or SourceRules()
        samples: list[ImageTextSample] = []
        classes = {label for path in paths for label in rules.find_held_out(path)}
        for path in paths:
            raw = _read_split(path, split, read_files)
            if split == "train":
                if refused := rules.held_out & {str(sample.metadata["source"]) for sample in raw}:
                    names = ", ".join(refused)
                    raise DataError(f"{path}: {names} must not be trained on; move it from `train` to `unseen`")
                raw = [sample for sample in raw if concept(sample.metadata) not in classes]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                decoded = pool.map(lambda sample: _decode(sample, image_side, rules), raw)
                samples += filter(None, track(decoded, f"reading {path.name} {split}", len(raw)))
        return cls(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    @property
    def sizes(self) -> list[int]:
        """Number of samples, in one shard for shuffling."""
        return [len(self.samples)]

    def load(self, index: int, needed: int) -> Pair:
        """Return a sample's pair (see `pairs.PairSource`)."""
        return self.samples[index].pair

    def by_source(self) -> dict[str, ImageTextSet]:
        """Return one set for each `source` of the metadata, sorted by name; the images are shared, not copied."""
        names = sorted({sample.source for sample in self.samples})
        return {name: ImageTextSet([s for s in self.samples if s.source == name]) for name in names}

    def every(self, count: int, others: bool = False) -> ImageTextSet:
        """Return the set of every `count`-th sample, or of all others."""
        numbered = enumerate(self.samples, 1)
        return ImageTextSet([sample for number, sample in numbered if bool(number % count) == others])

    def balanced(self, power: float = 0.5) -> ImageTextSet:
        """Return the set with samples of rare labels repeated (images are not copied).

        A label with n samples, where the most frequent has m, is repeated (m / n) ** power times, rounded.
        """
        counts = Counter(sample.label for sample in self.samples)
        most = max(counts.values(), default=0)
        repeats = {label: round((most / count) ** power) for label, count in counts.items()}
        return ImageTextSet([s for s in self.samples for _ in range(repeats[s.label])])


def _read_split(path: Path, split: str, read_files: ReadFiles | None) -> Sequence[FileSample]:
    if read_files is not None and path.suffix != ".tar" and not shards_below(path, split):
        return read_files(path, split)
    samples = (sample for shard in find_shards(path, split) for sample in read_shard(shard))
    return [FileSample(sample.key, sample.image, sample.metadata) for sample in samples]


def _decode(sample: FileSample, image_side: int, rules: SourceRules) -> ImageTextSample | None:
    """Decode a sample, at most `image_side` px on the short side; log a bad one and return None."""
    of_shard = isinstance(sample.image, bytes)
    try:
        if problem := wrong_field(sample.metadata):
            raise InputError(sample.key, problem)
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
    style = rules.style(sample.metadata["source"])
    colours = colour_words(pixels, style.drawn)
    tensor = torch.from_numpy(pixels)
    return ImageTextSample(sample.key, tensor, sample.metadata, colours, style, sample.texts, of_shard)
