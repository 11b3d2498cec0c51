"""An encoder whose layers are known, and a task whose answer is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.evaluation.statistics.scores import ItemScores
from perception_encoder.layer_analysis.layer_task import LayerScore
from perception_encoder.models.protocols import LayerEncoder, LayerTokens

SIDE, PATCH, DEPTH, CLEAR = 16, 4, 4, 2
"""Layer CLEAR shows mean colours; the clearer a layer's neighbours are, the nearer they are to it."""


@dataclass
class ToyEncoder:
    """Patches are mean colours under noise that grows with the distance to layer CLEAR; a prefix of one token."""

    name: str = "toy"
    weights: str = "w1"
    patch_size: int = PATCH
    image_size: tuple[int, int] = (SIDE, SIDE)
    depth: int = DEPTH
    width: int = 3
    scale: float = 1.0
    before: Callable[[int], None] = lambda seen: None
    seen: int = field(default=0, init=False)

    @property
    def about(self) -> dict[str, str]:
        return {"weights": self.weights, "dtype": "float32", "device": "cpu"}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        self.before(self.seen)
        self.seen += len(images)
        height, width = image_size or self.image_size
        grid = width // PATCH, height // PATCH
        shown = [np.asarray(image.convert("RGB").resize(grid, Image.Resampling.BOX), np.float32) for image in images]
        colours = np.stack(shown) / 255 - 0.5  # (B, h, w, 3)
        found = {}
        for layer in layers:
            noise = np.stack([_noise(image, layer, colours.shape[1:]) for image in colours])
            patches = (colours + abs(layer - CLEAR) * noise).astype(np.float32) * self.scale
            found[layer] = LayerTokens(patches.mean(axis=(1, 2))[:, None], patches)
        return found


def _noise(image: np.ndarray, layer: int, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(image.tobytes() + bytes([layer])).digest()[:8], "little")
    offset, spread = np.random.default_rng(seed).normal(size=(2, *shape))
    return offset.mean(axis=(0, 1), keepdims=True) * 4 + 0.1 * spread


def plain(level: int) -> Image.Image:
    """A picture of one grey."""
    return Image.new("RGB", (SIDE, SIDE), (level, level, level))


def pictures(count: int, broken: Sequence[int] = (), name: str = "greys") -> LayerImages:
    """Greys that get lighter; some cannot be decoded."""

    def open(place: int) -> list[Image.Image]:
        if place in broken:
            raise MediaDecodeError(f"grey {place}", "is cut")
        return [plain(place)]

    keys = tuple(f"grey {place}" for place in range(count))
    return LayerImages(name=name, keys=keys, open=open, compute_digest=lambda: f"{count} {broken}")


@dataclass
class LightnessTask:
    """How well a layer's mean tells lightness: a picture's score is 1 less its error."""

    count: int = 20
    name: str = "lightness"
    digest: str = "d1"
    failures: tuple[InputError, ...] = ()
    broken: tuple[int, ...] = ()
    measured: list[int] = field(default_factory=list)
    lower: bool = False

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        return [pictures(self.count, self.broken)]

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        (found,) = features
        self.measured.append(found.layer)
        error = np.abs(found.mean().mean(axis=1) - (found.rows / 255 - 0.5))
        names = [f"grey {row}" for row in found.rows]
        scores = (
            ItemScores.of("error", error, names, unit="m", lower_is_better=True)
            if self.lower
            else ItemScores.of("likeness", 1 / (1 + error), names),
            ItemScores.of("mean", found.mean().mean(axis=1) ** 2, names, unit=""),
        )
        return tuple(LayerScore.of(score, "mean") for score in scores)
