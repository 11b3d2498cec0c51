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

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Vectors (B, D), float32, in the pictures' order; without `normalize` as long as the model makes them."""
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
    """With the unit "%": a share, in [0, 1], or a difference of two."""
    n: int
    """How many items it was measured on."""
    ci: tuple[float, float] | None
    """95 % confidence interval; None where there is none to be had, of one block or one seed of a fitted head."""
    unit: str = "%"
    """Of the value; "m" for metres, empty for a plain number."""
    lower_is_better: bool = False


@dataclass(frozen=True)
class LayerTokens:
    """What a vision transformer made of pictures after one of its blocks."""

    prefix: np.ndarray
    """(B, P, D) float32: class and register tokens; P is 0 where a model has none."""
    patches: np.ndarray
    """(B, h, w, D) float32."""


class LayerEncoder(Protocol):
    """Pictures to the tokens of any layer of a vision transformer."""

    @property
    def name(self) -> str:
        """What the results are listed under."""
        ...

    @property
    def depth(self) -> int:
        """How many blocks there are; a layer is the 0-based number of one."""
        ...

    @property
    def patch_size(self) -> int:
        """Pixels along a patch's side."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that pictures are squashed to where nothing else is asked for."""
        ...

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Each asked layer's tokens, in the pictures' order.

        `image_size`: height and width, multiples of the patch. Raises ConfigError for a layer that does not exist, and
        ModelError where a token is not finite.
        """
        ...
