"""What evaluators and analyses take: encoders of images, of texts, and of the tokens of each layer.

Whatever turns images (and texts) into embeddings is evaluated by the same code: this package's `Encoder`, a model of
timm, open_clip or transformers, or a few lines around a model of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


class ImageEncoder(Protocol):
    """Images to embeddings."""

    @property
    def name(self) -> str:
        """What results are listed under."""
        ...

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Embeddings (B, D), float32, in the images' order; without `normalize` as long as the model makes them."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """Images and texts to embeddings of one space."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings (B, D), float32, in the texts' order."""
        ...


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of images after one block of a vision transformer."""

    prefix: np.ndarray
    """(B, P, D) float32: class and register tokens; P is 0 if a model has none."""
    patches: np.ndarray
    """(B, h, w, D) float32."""


class LayerEncoder(Protocol):
    """Images to the tokens of any layer of a vision transformer."""

    @property
    def name(self) -> str:
        """What results are listed under."""
        ...

    @property
    def depth(self) -> int:
        """Number of blocks; a layer is the 0-based number of one."""
        ...

    @property
    def patch_size(self) -> int:
        """Pixels along a patch's side."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Default height and width that images are squashed to."""
        ...

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Each layer's tokens, in the images' order.

        `image_size`: height and width, multiples of the patch. Raises ConfigError for a layer that does not exist, and
        ModelError if a token is not finite.
        """
        ...


class StoredEncoder(LayerEncoder, Protocol):
    """A LayerEncoder whose features can be stored: it says what they depend on, and how large they are."""

    @property
    def width(self) -> int:
        """Width of a token, D, at every layer."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """Weight hash, floating-point type and device: what features depend on, apart from images and their size."""
        ...
