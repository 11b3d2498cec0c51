"""Encoders of layers that see colours or nothing, and videos drawn for them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerSource, ScoreLayer
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.formats.shards import write_members
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis.sweep import ColourTowers
from perception_encoder.progress import Track, untracked
from perception_encoder.runtime.layer_towers import LayerTokens


class ColourLayers(ColourTowers):
    """Layer 0: a patch's mean colour. Layer 1: noise. Layer 2: NaN."""

    depth, width = 3, 8

    def __init__(self, patch_size: int, image_size: tuple[int, int]) -> None:
        self.patch_size, self.image_size = patch_size, image_size
        self.rng = np.random.default_rng(0)

    def tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, LayerTokens]:
        colours = super().tokens(images, layers, size)[0].patches
        made = {0: colours, 1: self.rng.normal(size=(*colours.shape[:3], 8)), 2: np.full_like(colours, np.nan)}
        patches = {layer: made[layer].astype(np.float32) for layer in layers}
        return {layer: LayerTokens(patch[:, 0, :0], patch) for layer, patch in patches.items()}


def colour_layers(patch_size: int = 4, image_size: tuple[int, int] = (32, 32)) -> LayerFeatures:
    return LayerFeatures(ColourLayers(patch_size, image_size))


def colour_source(patch_size: int = 4, image_size: tuple[int, int] = (24, 32), layer: int = 0) -> LayerSource:
    return LayerSource(colour_layers(patch_size, image_size).at(layer))


def cached(maps: np.ndarray) -> CachedTokens:
    """Maps (n, h, w, D) as the features of a layer."""
    tokens = maps.reshape(len(maps), -1, maps.shape[-1])
    return CachedTokens(layer=0, tokens=tokens, prefix=0, grid=maps.shape[1:3], rows=np.arange(len(maps)))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def discs(frames: int = 6, size: tuple[int, int] = (48, 64)) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A red disc (1) and a blue square (2) that cross a grey floor: frames (H, W, 3) and masks (H, W), uint8."""
    y, x = np.mgrid[: size[0], : size[1]]
    samples, masks = [], []
    for index in range(frames):
        mask = np.zeros(size, np.uint8)
        mask[(y - 16) ** 2 + (x - 14 - 3 * index) ** 2 < 100] = 1
        mask[(abs(y - 36) < 8) & (abs(x - 48 + 2 * index) < 9)] = 2
        samples.append(np.array([(90, 95, 90), (220, 40, 30), (30, 40, 220)], np.uint8)[mask])
        masks.append(mask)
    return samples, masks


def write_video(path: Path, samples: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> Path:
    """Write a tar of NNNNN.jpg (holding PNG, to lose nothing) and NNNNN.png."""
    members = []
    for index, (image, mask) in enumerate(zip(samples, masks, strict=True)):
        members.append((f"{index:05}.jpg", png(image)))
        if mask is not None:
            members.append((f"{index:05}.png", png(mask)))
    write_members(path, members)
    return path


class Given(LayerSource):
    """A model whose tokens are given, one for each of an evaluator's inputs."""

    def __init__(self, *given: CachedTokens) -> None:
        super().__init__(colour_layers(4, (24, 32)))
        self.given = given

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        yield from score(self.given)
