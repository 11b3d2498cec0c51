"""Feature maps: features of an image's patches at a layer, and their colours (section 5, appendix B.3.2).

Half the map and half its blur (a 3x3 Gaussian, sigma 1); three principal components become lightness, chroma and hue.
The paper leaves two details open. Here a component is scaled to its deviation and squeezed by a sigmoid, so that a few
odd patches do not use up the scale, and has the sign that makes the centre positive, so that colours are reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageCms
from torch import Tensor

from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.image import ImageTransform, to_float
from perception_encoder.vectors import unit_rows

PATCHES = 40
"""Patches along a map's longer side; the published models were trained at 14 to 32."""

_LIGHTNESS, _CHROMA, _HUE = (25.0, 92.0), (8.0, 62.0), (0.0, 300.0)  # hue in degrees; the ends must not meet
_STEEPNESS = 1.7  # the sigmoid is then close to a normal distribution's share


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """An image, as the model saw it, and its patch features at some layers."""

    image: Image.Image
    """RGB, with sides that are multiples of the patch."""
    layers: dict[int, Float[np.ndarray, "h w D"]]
    """float32, by 0-based layer; the last layer's passed through `ln_post`, as in `Feature`."""

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes."""
        return sum(features.nbytes for features in self.layers.values()) + 3 * self.image.width * self.image.height


@torch.inference_mode()
def feature_maps(
    encoder: Encoder, image: Image.Image, layers: Sequence[int] | None = None, patches: int = PATCHES
) -> FeatureMaps:
    """Run an image through the vision tower once, resized to `patches` along its longer side at its aspect ratio.

    `layers`: 0-based, negative from the end; all by default. Raises ConfigError for a layer that does not exist, and
    ModelError if features are not finite.
    """
    visual = encoder.visual
    indices = visual.layer_indices(None if layers is None else list(layers))
    height, width = map_grid(image.size, patches)
    patch = visual.config.patch_size
    pixels = ImageTransform((height * patch, width * patch)).pixels(image)
    batch = to_float(torch.from_numpy(pixels[None]).to(encoder.device)).to(encoder.dtype)
    outputs = visual.forward_intermediates(batch, indices, stop_early=True, output_fmt="NLC", intermediates_only=True)
    maps = {}
    for layer, features in zip(indices, cast(list[Tensor], outputs), strict=True):
        normed = visual.ln_post(features) if layer == visual.config.depth - 1 else features
        maps[layer] = normed[0].unflatten(0, (height, width)).float().cpu().numpy()
        if not np.isfinite(maps[layer]).all():
            raise ModelError(f"{encoder.name} gives NaN or infinity in {encoder.dtype} at layer {layer}")
    return FeatureMaps(image=Image.fromarray(pixels.transpose(1, 2, 0)), layers=maps)


def map_grid(size: tuple[int, int], patches: int = PATCHES) -> tuple[int, int]:
    """Return the grid (h, w) for an image of `size` (width, height): `patches` along the longer side, at least 1."""
    if patches < 1:
        raise ConfigError(f"patches is {patches}; a map needs at least 1")
    width, height = size
    longer = max(size)
    return max(1, round(patches * height / longer)), max(1, round(patches * width / longer))


def to_colours(features: Float[np.ndarray, "h w D"]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a map to sRGB colours: see the module. A constant component gets the middle of its scale."""
    shares = _squeeze(principal_components(_blend_with_blur(features), 3))
    low, high = (np.array(ends) for ends in zip(_LIGHTNESS, _CHROMA, _HUE, strict=True))
    lightness, chroma, hue = np.moveaxis(low + shares * (high - low), -1, 0)
    lab = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], axis=-1)
    return _lab_to_rgb(lab)


def principal_components(features: Float[np.ndarray, "h w D"], count: int) -> Float[np.ndarray, "h w count"]:
    """Return a map's principal components, zero-mean, with signs that make the image's centre positive.

    Missing components are zeros.
    """
    h, w, dimension = features.shape
    vectors = features.reshape(-1, dimension).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    variances, directions = np.linalg.eigh(vectors.T @ vectors)  # ascending
    numbers = [n for n in reversed(range(dimension)) if variances[n] > 1e-9 * variances[-1]][:count]
    components = vectors @ directions[:, numbers]  # (h·w, ≤ count)
    components = components * np.where(_middle(h, w).ravel() @ components < 0, -1, 1)
    return np.pad(components, ((0, 0), (0, count - len(numbers)))).reshape(h, w, count)


def _middle(h: int, w: int) -> Float[np.ndarray, "h w"]:
    """Return weights: high in the centre, slightly higher to the left and top."""
    y, x = np.meshgrid(np.linspace(-1, 1, h + 2)[1:-1], np.linspace(-1, 1, w + 2)[1:-1], indexing="ij")
    return -(x**2) - y**2 - 0.1 * x - 0.05 * y


def _blend_with_blur(features: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w D"]:
    """Return 0.5 x + 0.5 blur(x): a 3x3 Gaussian of sigma 1, with replicated borders."""
    weights = np.array([np.exp(-0.5), 1, np.exp(-0.5)]) / (1 + 2 * np.exp(-0.5))
    h, w, _ = features.shape
    padded = np.pad(features.astype(np.float64), ((1, 1), (1, 1), (0, 0)), "edge")
    rows = sum(weight * padded[n : n + h] for n, weight in enumerate(weights))
    return 0.5 * features + 0.5 * sum(weight * rows[:, n : n + w] for n, weight in enumerate(weights))


def _squeeze(components: Float[np.ndarray, "h w n"]) -> Float[np.ndarray, "h w n"]:
    """Scale components to 0–1 by their deviation; constants become 0.5."""
    deviations = components.std(axis=(0, 1))
    scaled = np.divide(components, deviations, out=np.zeros_like(components), where=deviations > 0)
    return 1 / (1 + np.exp(-_STEEPNESS * scaled))


def _lab_to_rgb(lab: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Convert CIELAB (L 0–100) to sRGB; colours outside sRGB become nearby ones."""
    encoded = np.rint(lab * (2.55, 1, 1)).astype(np.int16).astype(np.uint8)  # a and b are signed bytes
    image = Image.frombytes("LAB", (lab.shape[1], lab.shape[0]), encoded.tobytes())
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))


def similarity(features: Float[np.ndarray, "h w D"], row: int, column: int) -> Float[np.ndarray, "h w"]:
    """Return the cosine similarity of every patch to one."""
    unit = unit_rows(features)
    return unit @ unit[row, column]
