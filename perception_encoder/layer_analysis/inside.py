"""What a picture is inside a model, layer by layer: its features, who looks where, and how long tokens are.

A picture goes through the model twice, once for its tokens and once for its attention. What is like a chosen place,
and what that place looks at, tell how local a layer is; where every row of attention shows the same few patches, they
are global tokens (section 5.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.feature_map import map_grid, similarity
from perception_encoder.inference.layer_encoder import TowerEncoder, resolve_layers
from perception_encoder.layer_analysis.global_tokens import (
    TokenStatistics,
    describe_tokens,
    first_global_layer,
    received_attention,
)
from perception_encoder.preprocess.image import ImageTransform

PICTURES = 32
"""Pictures that the tokens of a model are described on, where many are at hand."""
HELD = 2e9
"""Bytes of tokens and attention that are held for it at a time; of a large model's layers a few."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A picture's inside at some layers."""

    model: str
    image: Image.Image
    """As the model saw it."""
    maps: dict[int, Float[np.ndarray, "h w D"]]
    """Patch features by layer."""
    attention: dict[int, Float[np.ndarray, "N N"]]
    """Mean over heads; rows look, prefix first."""
    statistics: tuple[TokenStatistics, ...]
    """Of every layer of the model."""
    prefix: int
    row: int
    column: int
    """The chosen patch."""

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        h, w, _ = next(iter(self.maps.values())).shape
        return h, w

    @property
    def global_from(self) -> int | None:
        """The layer from which on there are global tokens in this picture."""
        return first_global_layer(self.statistics)

    def alike(self, layer: int) -> Float[np.ndarray, "h w"]:
        """Cosine similarity of every patch to the chosen one."""
        return similarity(self.maps[layer], self.row, self.column)

    def looked_at(self, layer: int) -> Float[np.ndarray, "h w"]:
        """What the chosen patch looks at, in even shares of its attention."""
        weights = self.attention[layer][self.prefix + self.row * self.grid[1] + self.column, self.prefix :]
        return weights.reshape(self.grid) * len(self.attention[layer])

    def received(self, layer: int) -> Float[np.ndarray, "h w"]:
        """How much the median patch looks at each patch, in even shares of its attention."""
        return received_attention(self.attention[layer][None], self.prefix)[0].reshape(self.grid)

    def norms(self, layer: int) -> Float[np.ndarray, "h w"]:
        """How long each patch's token is."""
        return np.linalg.norm(self.maps[layer], axis=-1)


def look_inside(
    encoder: TowerEncoder,
    image: Image.Image,
    layers: Sequence[int] | None = None,
    patches: int | None = None,
    at: tuple[float, float] = (0.5, 0.5),
) -> Inside:
    """Run a picture through the model, its aspect ratio kept to the patch, but not by a model of one size.

    `layers`: 0-based, negative from the end; about six of all by default. `patches`: along the longer side; by default
    as many as the model was trained with. `at`: the chosen place, 0–1 from the left and from the top. Raises
    ConfigError for a layer or a place that does not exist, and a size that the model does not take; ModelError as
    `TowerEncoder.attention` does.
    """
    if not all(0 <= share <= 1 for share in at):
        raise ConfigError(f"the place {at[0]:g},{at[1]:g} is outside the picture; give shares of 0 to 1, 0.5,0.5 say")
    depth, patch = encoder.depth, encoder.patch_size
    wanted = evenly(depth) if layers is None else resolve_layers(encoder, layers)
    own = max(encoder.image_size) // patch
    h, w = map_grid(image.size, patches or own)
    if encoder.tower.fixed_size and patches in (None, own):
        h, w = (side // patch for side in encoder.image_size)
    size = (h * patch, w * patch)
    every = range(depth)
    tokens = encoder.encode_layers([image], every, size)
    attention = encoder.attention([image], every, size)
    pixels = ImageTransform(size).pixels(image).permute(1, 2, 0).numpy()
    return Inside(
        model=encoder.name,
        image=Image.fromarray(pixels),
        maps={layer: tokens[layer].patches[0] for layer in wanted},
        attention={layer: attention[layer][0] for layer in wanted},
        statistics=tuple(describe_tokens(n, tokens[n].prefix, tokens[n].patches, attention[n]) for n in every),
        prefix=tokens[0].prefix.shape[1],
        row=min(int(at[1] * h), h - 1),
        column=min(int(at[0] * w), w - 1),
    )


def describe_layers(
    encoder: TowerEncoder, images: Sequence[Image.Image], image_size: tuple[int, int] | None = None
) -> tuple[TokenStatistics, ...]:
    """Every layer's tokens over some pictures, by default at the size the model was trained at.

    Errors as those of `TowerEncoder.attention`.
    """
    height, width = image_size or encoder.image_size
    count = height * width // encoder.patch_size**2
    each = 4 * len(images) * count * (count + encoder.width)  # bytes of a layer's attention and tokens
    at_once, found = max(1, int(HELD // each)), []
    for start in range(0, encoder.depth, at_once):
        layers = range(start, min(start + at_once, encoder.depth))
        tokens = encoder.encode_layers(images, layers, image_size)
        attention = encoder.attention(images, layers, image_size)
        found += [describe_tokens(n, tokens[n].prefix, tokens[n].patches, attention[n]) for n in layers]
    return tuple(found)


def evenly(depth: int, count: int = 6) -> list[int]:
    """About `count` layers from the first to the last, evenly apart."""
    return sorted({round(place) for place in np.linspace(0, depth - 1, min(count, depth))})
