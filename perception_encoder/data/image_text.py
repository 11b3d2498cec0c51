"""Image-text samples in memory: the pictures of shards, class directories or tables as uint8 tensors, with metadata.

A split of a folder is `FOLDER/SPLIT.tar` and `FOLDER/SPLIT/*.tar`. The split `train` is guarded: a held-out
source (OpenMoji) or a shard of another split is an error, and the unseen classes of Caltech-101 are left out. It may
also be a directory for each class, or a table (`training_files`).
"""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from perception_encoder.data.captions import DRAWN, all_captions, choose_caption, colour_words, concept, wrong_field
from perception_encoder.data.sources import NEVER_TRAINED
from perception_encoder.datasets.labelled import find_unseen_labels
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.shards import ShardSample, read_shard
from perception_encoder.formats.splits import find_shards, shards_below
from perception_encoder.preprocess.image import NeededSide, open_image
from perception_encoder.pretraining.training_files import FileSample, read_files
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTextSample:
    """A decoded picture and what is known about it."""

    key: str
    image: torch.Tensor
    """(3, H, W) uint8."""
    metadata: Mapping[str, Any]
    colours: tuple[str, ...]
    """Names of its dominant colours, for captions."""
    texts: tuple[str, ...] = ()
    """Its captions; if there are none they are made of the metadata."""
    of_shard: bool = True
    """Whether it is from a shard; else it is from a directory or a table of the user's."""

    @property
    def source(self) -> str:
        """The collection that it is from."""
        return str(self.metadata["source"])

    @property
    def label(self) -> str:
        """What it shows."""
        return str(self.metadata["label"])

    def caption(self, generator: np.random.Generator) -> str:
        """Draw one of its captions, or one that is made (see `captions.choose_caption`)."""
        if self.texts:
            return self.texts[int(generator.integers(len(self.texts)))]
        return choose_caption(self.metadata, generator, self.colours)

    @property
    def captions(self) -> frozenset[str]:
        """Every caption that may be drawn for it."""
        return frozenset(self.texts) or all_captions(self.metadata, self.colours)


class ImageTextSet(Sequence[ImageTextSample]):
    """Samples in memory; `failures` names those whose picture could not be decoded."""

    def __init__(self, samples: Sequence[ImageTextSample], failures: Sequence[str] = ()) -> None:
        self.samples = list(samples)
        self.failures = tuple(failures)

    @classmethod
    def from_folder(
        cls,
        folders: Path | Sequence[Path],
        split: str = "train",
        image_side: int = 160,
        track: Track = untracked,
    ) -> ImageTextSet:
        """Load a split of some folders or tar files; of class directories and tables, `train`.

        Pictures whose short side is over `image_side` px are scaled to it, none is enlarged.
        Raises `DataError` where there is no such split, where a shard is damaged, and where training data holds
        what is never trained on. A picture that cannot be decoded is logged and left out.
        """
        folders = [folders] if isinstance(folders, Path) else list(folders)
        samples: list[ImageTextSample] = []
        failures: list[str] = []
        unseen = {label for folder in folders for _, label in find_unseen_labels(folder)}
        for folder in folders:
            raw = _read_split(folder, split, unseen)
            name = f"reading {folder.name} {split}"
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                decoded = pool.map(lambda sample: _decode(sample, image_side), raw)
                for sample, result in zip(raw, track(decoded, name, len(raw)), strict=True):
                    if result is None:
                        failures.append(sample.key)
                    else:
                        samples.append(result)
        return cls(samples, failures)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    @property
    def sizes(self) -> list[int]:
        """Its samples are shuffled as one shard."""
        return [len(self.samples)]

    def load(self, index: int, needed: NeededSide) -> ImageTextSample:
        """A sample, as it was read (see `pairs.PairSource`)."""
        return self.samples[index]

    def by_source(self) -> dict[str, ImageTextSet]:
        """One set for each `source` of the metadata, sorted by name; the pictures are shared, not copied."""
        names = sorted({sample.source for sample in self.samples})
        return {name: ImageTextSet([s for s in self.samples if s.source == name]) for name in names}

    def balanced(self, power: float = 0.5) -> ImageTextSet:
        """A set in which samples of rare labels stand several times (the pictures are not copied).

        A label with n samples, where the most frequent has m, is repeated (m / n) ** power times, rounded.
        """
        counts = Counter(sample.label for sample in self.samples)
        most = max(counts.values(), default=0)
        repeats = {label: round((most / count) ** power) for label, count in counts.items()}
        return ImageTextSet([s for s in self.samples for _ in range(repeats[s.label])], self.failures)


def _read_split(folder: Path, split: str, unseen: set[str]) -> Sequence[ShardSample | FileSample]:
    """A split's samples; in training none of a held-out source, and none of any source under an unseen label."""
    if split == "train" and folder.suffix != ".tar" and not shards_below(folder, split):
        samples: Sequence[ShardSample | FileSample] = read_files(folder)
    else:
        samples = [sample for shard in find_shards(folder, split) for sample in read_shard(shard)]
    if split != "train":
        return samples
    held_out = {str(sample.metadata["source"]) for sample in samples} & NEVER_TRAINED
    if held_out:
        raise DataError(f"{folder}: {', '.join(held_out)} is never trained on; move it from `train` to `unseen`")
    return [sample for sample in samples if concept(sample.metadata) not in unseen]


def _decode(sample: ShardSample | FileSample, image_side: int) -> ImageTextSample | None:
    """A sample with its picture, at most `image_side` px on the short side; None if it is bad, which is logged."""
    try:
        if problem := wrong_field(sample.metadata):
            raise InputError(sample.key, problem)
        rgb = _open(sample, image_side)
    except InputError as error:
        logger.warning("left out %s: %s", sample.key, error.reason)
        return None
    short = min(rgb.size)
    if short > image_side:
        width, height = (max(image_side, round(side * image_side / short)) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))  # (3, H, W)
    colours = colour_words(pixels, sample.metadata["source"] in DRAWN)
    if isinstance(sample, ShardSample):
        return ImageTextSample(sample.key, torch.from_numpy(pixels), sample.metadata, colours)
    return ImageTextSample(sample.key, torch.from_numpy(pixels), sample.metadata, colours, sample.texts, of_shard=False)


def _open(sample: ShardSample | FileSample, image_side: int) -> Image.Image:
    """The picture in RGB; InputError if it cannot be decoded."""
    if isinstance(sample, FileSample):
        if not isinstance(sample.image, Path):
            raise InputError(sample.key, "is a part of a video; videos are trained on from shards")
        return open_image(sample.image, sample.key, reduce_to=image_side).convert("RGB")
    try:
        with Image.open(io.BytesIO(sample.image)) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(sample.key, f"its picture cannot be decoded ({error})") from error
