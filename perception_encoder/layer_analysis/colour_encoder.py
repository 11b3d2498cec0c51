"""The mean colour of each patch, as an encoder of one layer: the baseline of tracking by colour alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.layer_features import LayerFeatures, LayerTokens

COLOURS = "colours"


class ColourFeatures(LayerFeatures):
    """Mean colours, without weights; the patches are those of another model."""

    name, depth, width, layer = COLOURS, 1, 3, 0

    def __init__(self, other: LayerFeatures) -> None:
        self.patch_size, self.image_size = other.patch_size, other.image_size

    @property
    def about(self) -> dict[str, str]:
        """What its features depend on besides the images."""
        return {"weights": f"{COLOURS} of patches of {self.patch_size}", "dtype": "float32", "device": "cpu"}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Return the mean colour of each patch, less grey, in (-0.5, 0.5): see `LayerFeatures`."""
        if set(layers) != {0}:
            raise ConfigError(f"layers are {list(layers)}; {COLOURS} has only layer 0")
        height, width = image_size or self.image_size
        h, w = height // self.patch_size, width // self.patch_size
        small = [image.convert("RGB").resize((w, h), Image.Resampling.BOX) for image in images]
        patches = np.stack([np.asarray(image, dtype=np.float32) for image in small]) / 255 - 0.5
        return {0: LayerTokens(np.zeros((len(patches), 0, 3), np.float32), patches)}
