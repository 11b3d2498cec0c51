"""Analyse an image layer by layer: features, attention and norms of its tokens, and global tokens.

Global tokens are patches that every token attends to (section 5.1). The attention that a patch receives is the median
over all other patches, not the mean, because a patch that only its neighbours attend to is local. `TIMES` is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.feature_map import map_grid, similarity
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.preprocess.image import ImageTransform

TIMES = 10.0
"""A patch is global if the median patch's attention to it is this many times an even share."""
MOST = 0.5
"""Minimum share of images, and of later layers, with global tokens for a layer to count."""


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """Statistics of a layer's tokens over some images."""

    layer: int
    patch_norm: float
    largest_norm: float
    """Maximum norm of a patch token, as the median over images."""
    prefix_norm: float | None
    """Mean norm of class and register tokens; None without any."""
    global_tokens: float
    global_attention: float
    """Mean share of the patches' attention to global tokens."""
    images_with: float
    """Share of images with at least one global token."""


def received_attention(attention: Float[np.ndarray, "B N N"], prefix: int) -> Float[np.ndarray, "B P"]:
    """Return the median patch's attention to each other patch, relative to an even share (1).

    `attention`: rows are the tokens that attend, `prefix` of them before the patches, and sum to 1.
    """
    between = np.array(attention[:, prefix:, prefix:], dtype=np.float64)
    count = between.shape[-1]
    between[:, np.arange(count), np.arange(count)] = np.nan  # a patch's attention to itself does not count
    if count == 1:
        return np.zeros((len(between), 1))
    return np.nanmedian(between, axis=1) * attention.shape[-1]


def describe_tokens(
    layer: int, prefix: np.ndarray, patches: np.ndarray, attention: Float[np.ndarray, "B N N"]
) -> TokenStatistics:
    """Return a layer's statistics from its class and register tokens (B, P, D), patches (B, h, w, D) and attention."""
    norms = np.linalg.norm(patches.reshape(len(patches), -1, patches.shape[-1]), axis=-1)  # (B, h·w)
    before = prefix.shape[1]
    is_global = received_attention(attention, before) > TIMES
    to_global = (attention[:, before:, before:] * is_global[:, None]).sum(axis=-1)  # (B, h·w)
    return TokenStatistics(
        layer=layer,
        patch_norm=float(np.median(norms)),
        largest_norm=float(np.median(norms.max(axis=1))),
        prefix_norm=float(np.linalg.norm(prefix, axis=-1).mean()) if before else None,
        global_tokens=float(is_global.sum(axis=1).mean()),
        global_attention=float(to_global.mean()),
        images_with=float(is_global.any(axis=1).mean()),
    )


def first_global_layer(statistics: Sequence[TokenStatistics]) -> int | None:
    """Return the first layer from which on, in most layers, most images have global tokens; None if there is none."""
    has = np.array([item.images_with >= MOST for item in statistics])
    for index, statistic in enumerate(statistics):
        if has[index] and has[index:].mean() >= MOST:
            return statistic.layer
    return None


SAMPLE = 32
"""Maximum number of images for the statistics of a model's tokens."""
DRAWN_LAYERS = 6
"""Default number of layers at which an image is analysed."""
BYTES = 2e9
"""Maximum bytes of tokens and attention in memory at a time: a few layers of a large model."""


@dataclass(frozen=True, kw_only=True)
class ImageAnalysis:
    """An image at some layers of a model."""

    model: str
    image: Image.Image
    """The image as the model saw it."""
    maps: dict[int, Float[np.ndarray, "h w D"]]
    attention: dict[int, Float[np.ndarray, "N N"]]
    """The mean over heads; rows attend, prefix first."""
    statistics: tuple[TokenStatistics, ...]
    prefix: int
    row: int
    column: int

    @property
    def grid(self) -> tuple[int, int]:
        h, w, _ = next(iter(self.maps.values())).shape
        return h, w

    def similarities(self, layer: int) -> Float[np.ndarray, "h w"]:
        """Return the cosine similarity of every patch to the chosen one."""
        return similarity(self.maps[layer], self.row, self.column)

    def patch_attention(self, layer: int) -> Float[np.ndarray, "h w"]:
        """Return the chosen patch's attention to each patch, relative to an even share."""
        weights = self.attention[layer][self.prefix + self.row * self.grid[1] + self.column, self.prefix :]
        return weights.reshape(self.grid) * len(self.attention[layer])

    def median_attention(self, layer: int) -> Float[np.ndarray, "h w"]:
        """Return the median patch's attention to each patch, relative to an even share."""
        return received_attention(self.attention[layer][None], self.prefix)[0].reshape(self.grid)

    def norms(self, layer: int) -> Float[np.ndarray, "h w"]:
        return np.linalg.norm(self.maps[layer], axis=-1)


def analyse_image(
    encoder: LayerFeatures,
    image: Image.Image,
    layers: Sequence[int] | None = None,
    at: tuple[float, float] = (0.5, 0.5),
) -> ImageAnalysis:
    """Run an image through a model, with as many patches along its longer side as the model was trained with.

    A model of a fixed size gets that. `layers`: 0-based, negative from the end; six by default. `at`: the chosen point,
    0–1 from the left and from the top. Raises ConfigError for a layer or a point that does not exist; ModelError as
    `LayerFeatures.attention` does.
    """
    if not all(0 <= share <= 1 for share in at):
        raise ConfigError(f"the point {at[0]:g},{at[1]:g} is outside the image; give shares from 0 to 1, as 0.5,0.5")
    depth, patch = encoder.depth, encoder.patch_size
    numbers = spread_indices(depth, min(DRAWN_LAYERS, depth)) if layers is None else encoder.resolve_layers(layers)
    h, w = (side // patch for side in encoder.image_size)
    if not encoder.towers.fixed_size:
        h, w = map_grid(image.size, max(h, w))
    size = (h * patch, w * patch)
    every = range(depth)
    tokens = encoder.encode_layers([image], every, size)
    attention = encoder.attention([image], every, size)
    pixels = ImageTransform(size).pixels(image).transpose(1, 2, 0)
    return ImageAnalysis(
        model=encoder.name,
        image=Image.fromarray(pixels),
        maps={layer: tokens[layer].patches[0] for layer in numbers},
        attention={layer: attention[layer][0] for layer in numbers},
        statistics=tuple(describe_tokens(n, tokens[n].prefix, tokens[n].patches, attention[n]) for n in every),
        prefix=tokens[0].prefix.shape[1],
        row=min(int(at[1] * h), h - 1),
        column=min(int(at[0] * w), w - 1),
    )


def describe_layers(
    encoder: LayerFeatures, images: Sequence[Image.Image], image_size: tuple[int, int] | None = None
) -> tuple[TokenStatistics, ...]:
    """Describe every layer's tokens over some images, by default at the training size.

    Errors as those of `LayerFeatures.attention`.
    """
    height, width = image_size or encoder.image_size
    count = height * width // encoder.patch_size**2
    layer_bytes = 4 * len(images) * count * (count + encoder.width)  # bytes of a layer's attention and tokens
    at_once = max(1, int(BYTES // layer_bytes))
    statistics: list[TokenStatistics] = []
    for start in range(0, encoder.depth, at_once):
        layers = range(start, min(start + at_once, encoder.depth))
        tokens = encoder.encode_layers(images, layers, image_size)
        attention = encoder.attention(images, layers, image_size)
        statistics += [describe_tokens(n, tokens[n].prefix, tokens[n].patches, attention[n]) for n in layers]
    return tuple(statistics)
