"""An encoder whose best layer is known, and a task that it is best for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from perception_encoder.errors import MediaDecodeError, ModelError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.runtime.layer_towers import LayerTokens

SIDE, PATCH, DEPTH, CLEAR = 16, 4, 4, 2
"""Layer CLEAR has mean colours; the nearer a layer is to it, the less noise it adds to them."""


@dataclass
class ToyLayers:
    """Patches are mean colours under noise that grows with the distance to layer CLEAR; a prefix of one token."""

    source: str
    weights: str
    image_size: tuple[int, int]
    scale: float
    before: Callable[[int], None]
    encoded: int = 0
    device, dtype = torch.device("cpu"), torch.float32
    patch_size: int = PATCH
    depth: int = DEPTH
    width: int = 3
    fixed_size: bool = False

    def settings(self) -> dict[str, str]:
        return {"weights": self.weights, "dtype": "float32", "device": "cpu"}

    def tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, LayerTokens]:
        self.before(self.encoded)
        self.encoded += len(images)
        grid = size[1] // PATCH, size[0] // PATCH
        small = [np.asarray(image.convert("RGB").resize(grid, Image.Resampling.BOX), np.float32) for image in images]
        colours = np.stack(small) / 255 - 0.5  # (B, h, w, 3)
        tokens = {}
        for layer in layers:
            noise = np.stack([_noise(image, layer, colours.shape[1:]) for image in colours])
            patches = (colours + abs(layer - CLEAR) * noise).astype(np.float32) * self.scale
            tokens[layer] = LayerTokens(patches.mean(axis=(1, 2))[:, None], patches)
        return tokens

    def attention(self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]) -> dict:
        raise ModelError("a toy has no attention")


def toy_layers(
    name: str = "toy",
    weights: str = "w1",
    image_size: tuple[int, int] = (SIDE, SIDE),
    scale: float = 1.0,
    before: Callable[[int], None] = lambda encoded: None,
) -> LayerFeatures:
    return LayerFeatures(ToyLayers(name, weights, image_size, scale, before))


def _noise(image: np.ndarray, layer: int, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(image.tobytes() + bytes([layer])).digest()[:8], "little")
    offset, spread = np.random.default_rng(seed).normal(size=(2, *shape))
    return offset.mean(axis=(0, 1), keepdims=True) * 4 + 0.1 * spread


def plain(level: int) -> Image.Image:
    """Return an image of one grey."""
    return Image.new("RGB", (SIDE, SIDE), (level, level, level))


def greys(
    count: int, broken: Sequence[int] = (), name: str = "greys", size: tuple[int, int] | None = None
) -> EncoderInputs:
    """Return greys that get lighter; some cannot be decoded."""

    def open(row: int) -> list[Image.Image]:
        if row in broken:
            raise MediaDecodeError(f"grey {row}", "is cut")
        return [plain(row)]

    keys = tuple(f"grey {row}" for row in range(count))
    return EncoderInputs(name=name, keys=keys, open=open, compute_digest=lambda: f"{count} {broken}", image_size=size)


@dataclass
class LightnessTask:
    """How well a layer's mean predicts lightness: an image's score is 1 less its error."""

    count: int = 20
    name: str = "lightness"
    digest: str = "d1"
    broken: tuple[int, ...] = ()
    evaluated: list[int] = field(default_factory=list)
    lower: bool = False
    image_size: tuple[int, int] | None = None

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        inputs = [greys(self.count, self.broken, size=self.image_size)]
        yield from source.score(inputs, self.digest, self.score, track)

    def score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
        (layer,) = features
        self.evaluated.append(layer.layer)
        error = np.abs(layer.mean().mean(axis=1) - (layer.rows / 255 - 0.5))
        names = [f"grey {row}" for row in layer.rows]
        items = (
            ItemScores.of("error", error, names, unit="m", lower_is_better=True)
            if self.lower
            else ItemScores.of("likeness", 1 / (1 + error), names),
            ItemScores.of("mean", layer.mean().mean(axis=1) ** 2, names, unit=""),
        )
        yield from measure_all(items, Label(task=self.name, method="mean", settings={"pool": "mean"}))


def named(*tasks: LightnessTask) -> dict[str, LightnessTask]:
    """Return tasks by name."""
    return {task.name: task for task in tasks}
