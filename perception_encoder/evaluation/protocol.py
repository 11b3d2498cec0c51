"""What evaluators take, and what they yield.

An evaluator knows no model: whatever turns pictures (and texts) into vectors is measured by the same code, be it
this package's `Encoder` or a few lines around a model of timm, open_clip or transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


class ImageEncoder(Protocol):
    """Pictures to vectors."""

    @property
    def name(self) -> str:
        """What the results are listed under."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the pictures' order."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """Pictures and texts to vectors of one space."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the texts' order."""
        ...


@dataclass(frozen=True)
class Metric:
    """A measured figure."""

    name: str
    value: float
    """A share, in [0, 1], or a difference of two."""
    n: int
    """How many items it was measured on."""
    ci: tuple[float, float]
    """95 % confidence interval, by bootstrap."""
