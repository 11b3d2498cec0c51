"""Encoders as protocols: evaluators and layer analysis take a model of any library that implements one of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image


class ImageEncoder(Protocol):
    """Images to embeddings."""

    @property
    def name(self) -> str:
        """The name that results carry."""
        ...

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D), float32, in the images' order; without `normalize` as long as the model's own."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """Images and texts to embeddings of one space."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit embeddings (B, D), float32, in the texts' order."""
        ...


@dataclass(frozen=True)
class LayerTokens:
    """The tokens of images after one block of a vision transformer."""

    prefix: Float[np.ndarray, "B P D"]
    """float32: class and register tokens; P is 0 if the model has none."""
    patches: Float[np.ndarray, "B h w D"]
    """float32."""


class LayerEncoder(Protocol):
    """Images to the tokens of any layer of a vision transformer."""

    @property
    def name(self) -> str:
        """The name that results carry."""
        ...

    @property
    def depth(self) -> int:
        """The number of blocks; a layer is the 0-based number of one."""
        ...

    @property
    def patch_size(self) -> int:
        """Pixels along a patch's side."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """The default height and width that images are squashed to."""
        ...

    @property
    def width(self) -> int:
        """Width of a token, D, at every layer."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """Weight hash, floating-point type and device: what features depend on, apart from images and their size."""
        ...

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Return the tokens of each of the layers, in the images' order.

        `image_size`: height and width, multiples of the patch. Raises ConfigError for a layer that does not exist, and
        ModelError if a token is not finite.
        """
        ...
