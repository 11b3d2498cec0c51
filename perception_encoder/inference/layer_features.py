"""Features of any layer of a vision transformer from any library, and its attention: the view of its towers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import resolve_layers
from perception_encoder.models.tower import Tower
from perception_encoder.runtime.layer_towers import LayerTokens, LayerTowers


class Layered(Protocol):
    """The part of `LayerTowers` that the view needs."""

    source: str
    depth: int
    width: int
    patch_size: int
    image_size: tuple[int, int]
    fixed_size: bool
    device: torch.device
    dtype: torch.dtype

    def settings(self) -> dict[str, str]: ...

    def tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, LayerTokens]: ...

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, Float[np.ndarray, "B N N"]]: ...


class LayerFeatures:
    """A vision transformer of any library at one of its layers: images to tokens and maps; `load_layers` loads one.

    Attributes: `towers` (what computes), `name`, `depth` (number of layers), `layer` (the selected one, 0-based: see
    `at`), `patch_size`, `image_size` (default height and width that images are squashed to), `width` (of a token, D),
    `device`, `dtype`.

    Examples:
        >>> maps = pe.load_layers("PE-Spatial-B16-512").maps([Image.open("photo.jpg")])  # (1, h, w, D)
    """

    def __init__(self, towers: Layered) -> None:
        self.towers, self.name = towers, towers.source
        self.depth, self.patch_size = towers.depth, towers.patch_size
        self.image_size, self.width = towers.image_size, towers.width
        self.device, self.dtype = towers.device, towers.dtype
        self.layer = self.depth - 1

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"LayerFeatures({self.name!r}, layers={self.depth}, layer={self.layer}, width={self.width}, size={size})"

    @classmethod
    def of(cls, encoder: Encoder, final_norm: bool = False) -> LayerFeatures:
        """Return the layers of an encoder's vision tower; the weights are shared if torch executes both."""
        shared = encoder.runtime.name == "torch"
        visual = encoder.visual if shared else copy.deepcopy(encoder.visual)  # its type may change
        tower, dtype = Tower.of(visual, encoder.weight_hash), encoder.dtype if shared else None
        return cls(LayerTowers(encoder.name, tower, encoder.device, dtype, final_norm))

    def at(self, layer: int) -> LayerFeatures:
        """Return the same model at another layer, negative from the end; ConfigError if the layer does not exist."""
        selected = copy.copy(self)
        (selected.layer,) = self.resolve_layers([layer])
        return selected

    def resolve_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Return layers 0-based and ascending (negative from the end, None: all); ConfigError if one does not exist."""
        return resolve_layers(layers, self.depth, self.name)

    @property
    def about(self) -> dict[str, str]:
        """Everything but the images and their size that features depend on: weight hash, dtype, device, final norm."""
        return self.towers.settings()

    def maps(
        self, images: Sequence[Image.Image], image_size: tuple[int, int] | None = None
    ) -> Float[np.ndarray, "B h w D"]:
        """Return the patch tokens of the selected layer, float32."""
        return self.encode_layers(images, [self.layer], image_size)[self.layer].patches

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Return the tokens of the given layers, in the order of the images.

        Args:
            images: Images of any size.
            layers: 0-based, or negative from the end.
            image_size: Height and width that images are squashed to, multiples of the patch; by default the model's.

        Raises:
            ConfigError: A layer does not exist.
            ModelError: A token is not finite.
        """
        return self.towers.tokens(images, self.resolve_layers(layers), self.check_size(image_size))

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, Float[np.ndarray, "B N N"]]:
        """Return each layer's attention weights, float32, averaged over heads; each token's row sums to 1.

        Tokens are in the model's order, prefix first. The arguments are those of `encode_layers`.

        Raises:
            ModelError: The model does not attend through torch's `scaled_dot_product_attention`.
            DataError: There are no images.
        """
        return self.towers.attention(images, self.resolve_layers(layers), self.check_size(image_size))

    def check_size(self, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the given or default size; ShapeError unless a multiple of the patch, ConfigError for a fixed size."""
        size, patch = image_size or self.image_size, self.patch_size
        if any(side < patch or side % patch for side in size):
            raise ShapeError(f"image size {size[0]}x{size[1]} is not a multiple of the patch size {patch}; change it")
        if self.towers.fixed_size and size != self.image_size:
            height, width = self.image_size
            raise ConfigError(f"{self.name} takes images of {height}x{width} only, not {size[0]}x{size[1]}")
        return size
