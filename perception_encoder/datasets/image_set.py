"""Sets of images with targets: images by name, parts of a set, and the classes that were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from perception_encoder.errors import MediaDecodeError, one_line
from perception_encoder.preprocess.image import open_image
from perception_encoder.progress import Track, untracked

Stored = Path | bytes
"""A file or its content."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Stored images by name."""

    per_item: ClassVar[tuple[str, ...]] = ("keys", "images")
    """Fields with one entry per image; empty ones are skipped."""

    name: str
    keys: tuple[str, ...]
    images: tuple[Stored, ...]

    def open(self, index: int) -> Image.Image:
        """Open an image, RGB; InputError if it cannot be decoded or is missing."""
        return open_image(self.images[index], self.keys[index]).convert("RGB")

    def select(self, rows: Sequence[int]) -> Self:
        parts: dict[str, Any] = {}
        for name in self.per_item:
            values = getattr(self, name)
            parts[name] = tuple(values[row] for row in rows) if values else ()
        return replace(self, **parts)

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
