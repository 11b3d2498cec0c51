"""Sets of images with targets: labelled images and videos, shards of them, and the classes that were trained on.

Shards hold KEY.jpg with KEY.json (`source`, `label`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from perception_encoder.errors import MediaDecodeError, one_line
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.formats.shards import find_shards, read_shard
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.preprocess.image import open_image
from perception_encoder.progress import Track, untracked

Stored = Path | bytes
"""A file or its content."""


class ItemSet:
    """A dataclass with some fields that have one entry per item."""

    _per_item: ClassVar[tuple[str, ...]]
    """Those fields."""

    def select(self, rows: Sequence[int]) -> Self:
        """Return the set with these items."""
        whole: Any = self
        parts = {name: tuple(getattr(self, name)[row] for row in rows) for name in self._per_item}
        return replace(whole, **parts)


@dataclass(frozen=True, kw_only=True)
class ImageSet(ItemSet):
    """Stored images by name."""

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "images")

    name: str
    keys: tuple[str, ...]
    images: tuple[Stored, ...]

    def open(self, index: int) -> Image.Image:
        """Open an image, RGB; InputError if it cannot be decoded or is missing."""
        return open_image(self.images[index], self.keys[index]).convert("RGB")

    def spread(self, maximum: int) -> Self:
        """Return evenly spaced images: the first are often of one location or time, because their names are."""
        return self.select(spread_indices(len(self.keys), min(len(self.keys), maximum)))

    def cut(self) -> tuple[Self, Self]:
        """Split a set without splits: the first three fifths to train on, the rest to test on."""
        middle = len(self.keys) * 3 // 5
        return self.select(range(middle)), self.select(range(middle, len(self.keys)))


class ClassifiedSet(Protocol):
    """A set whose targets have classes."""

    def seen_classes(self, track: Track) -> set[Any]: ...

    def keep_classes(self, classes: set[Any]) -> Self: ...

    def check(self) -> Self:
        """Return the set; DataError if it has nothing to score."""
        ...


AnyClassifiedSet = TypeVar("AnyClassifiedSet", bound=ClassifiedSet)


def keep_trained(
    train: AnyClassifiedSet, test: AnyClassifiedSet, track: Track = untracked
) -> tuple[AnyClassifiedSet, AnyClassifiedSet]:
    """Return both sets with only the classes in `train`: others could only be missed, so they are not scored.

    DataError if `test` has none of them.
    """
    classes = train.seen_classes(track)
    return train.keep_classes(classes), test.keep_classes(classes).check()


def read_integers(stored: Stored, name: str, modes: tuple[str, ...], requirement: str) -> tuple[np.ndarray, str]:
    """Decode a one-channel image (H, W) and return it with its mode; MediaDecodeError for another mode."""
    try:
        with Image.open(BytesIO(stored) if isinstance(stored, bytes) else stored) as image:
            if image.mode not in modes:
                raise MediaDecodeError(name, f"has the mode {image.mode}; {requirement}")
            return np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaDecodeError(name, f"cannot be decoded: {one_line(error)}") from error


@dataclass(frozen=True)
class LabelledImages(ItemSet):
    """One classification task."""

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "images", "labels")

    name: str
    keys: tuple[str, ...]
    images: tuple[MediaSource, ...]
    """Undecoded images and videos, or paths."""
    labels: tuple[str, ...]
    choices: tuple[str, ...] = ()
    """The classes to choose from; by default the labels that occur."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of classes for prompts; by default the classes themselves."""
    accepted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The correct classes of a label in another set; by default the label itself."""
    trim: int = 0
    templates: tuple[str, ...] = ()
    """The dataset's own prompts, with {} for the class."""

    @classmethod
    def of(cls, name: str, rows: Sequence[tuple[str, MediaSource, str]], **others: Any) -> LabelledImages:
        """Return a task by its rows: key, image and label; `others`: further fields."""
        keys, images, labels = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(name, keys, images, labels, **others)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes to choose from: `choices`, or the distinct labels, sorted."""
        return self.choices or tuple(sorted(set(self.labels)))


def hashed_rows(keys: Sequence[str]) -> list[int]:
    """Return the rows in the order of a hash of their keys."""
    return sorted(range(len(keys)), key=lambda row: hashlib.sha256(os.fsencode(keys[row])).digest())


def hashed_classes(keys: Sequence[str], labels: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each label in that order."""
    rows: dict[str, list[int]] = {}
    for row in hashed_rows(keys):
        rows.setdefault(labels[row], []).append(row)
    return rows


HELD_OUT_SHARE = 0.2
"""Share of a dataset without splits that is held out for evaluation."""


def held_out_rows(keys: Sequence[str], labels: Sequence[str], share: float = HELD_OUT_SHARE) -> list[int]:
    """Return the held-out rows of a dataset without splits: those in each class with the smallest key hashes.

    Evaluations and training with the same `validation.share` hold out the same rows; of two or more of a class, one at
    least and never all.
    """
    of_class = hashed_classes(keys, labels)
    counts = {label: max(1, round(share * len(rows))) if len(rows) > 1 else 0 for label, rows in of_class.items()}
    return sorted(row for label, rows in of_class.items() for row in rows[: min(counts[label], len(rows) - 1)])


def load_labelled(path: Path, split: str = "test") -> dict[str, LabelledImages]:
    """Read a split of shards as classification tasks by name, sorted: each source is one.

    Errors as those of `find_shards` and `read_shard`.
    """
    rows: dict[str, list[tuple[str, MediaSource, str]]] = {}
    for shard in find_shards(path, split):
        for sample in read_shard(shard):
            rows.setdefault(sample.source, []).append((sample.key, sample.image, sample.label))
    return {name: LabelledImages.of(name, rows[name]) for name in sorted(rows)}
