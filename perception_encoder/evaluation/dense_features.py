"""A layer's patch features of pictures, checked, for the evaluators of dense tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.data.progress import Track, untracked
from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.evaluation.protocol import LayerEncoder

PATCHES = 16_384
"""Patches that are encoded at a time."""


def check_layer(encoder: LayerEncoder, layer: int) -> None:
    """Raise ConfigError for a layer that does not exist."""
    if not 0 <= layer < encoder.depth:
        raise ConfigError(f"layer {layer} does not exist; {encoder.name} has layers 0 to {encoder.depth - 1}")


def patch_multiple(length: float, patch: int) -> int:
    """The multiple of the patch that is nearest to a length, at least one."""
    return max(1, round(length / patch)) * patch


def encode_patches(
    encoder: LayerEncoder,
    layers: Sequence[int],
    images: Iterable[Image.Image],
    image_size: tuple[int, int] | None = None,
) -> dict[int, Float[np.ndarray, "n h w D"]]:
    """Patch features of pictures at some layers, float32; pictures are taken as they are needed.

    Raises ConfigError for a layer that does not exist, ModelError where a feature is not finite.
    """
    height, width = image_size or encoder.image_size
    chunk = max(1, PATCHES * encoder.patch_size**2 // (height * width))
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    pictures = iter(images)
    while batch := list(islice(pictures, chunk)):
        tokens = encoder.encode_layers(batch, layers, image_size)
        for layer in layers:
            found[layer].append(check_maps(tokens[layer].patches, f"{encoder.name}, layer {layer}"))
    return {
        layer: np.concatenate(maps) if maps else np.empty((0, 1, 1, 1), np.float32) for layer, maps in found.items()
    }


def check_maps(features: np.ndarray, name: str, keys: Sequence[str] = ()) -> np.ndarray:
    """Return features (n, h, w, D) as they are; ModelError, naming the first such item, where one is not finite."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=(1, 2, 3)))
    if len(bad):
        first = keys[bad[0]] if keys else f"item {bad[0]}"
        raise ModelError(
            f"{name}: NaN or infinity in the features of {len(bad)} of {len(features)} items; {first} first"
        )
    return features


class Pictures(Protocol):
    """Pictures by name, decoded when they are asked for."""

    @property
    def name(self) -> str:
        """What they are called in errors."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def open(self, place: int) -> Image.Image:
        """The picture at a place; InputError for one that cannot be decoded."""
        ...


@dataclass(frozen=True)
class EncodedPictures:
    """A layer's features of the pictures that could be decoded."""

    maps: Float[np.ndarray, "n h w D"]
    rows: np.ndarray
    """Which of the pictures these are, (n,)."""
    failures: tuple[InputError, ...]
    """The others."""


def encode_decodable(
    encoder: LayerEncoder,
    layer: int,
    pictures: Pictures,
    target: Callable[[int], object],
    image_size: tuple[int, int] | None = None,
    track: Track = untracked,
) -> EncodedPictures:
    """Encode pictures at one layer, some at a time; DataError where none can be decoded.

    `target`: decodes what is known of the picture at a place, only to see whether that can be done.
    """
    rows: list[int] = []
    failures: list[InputError] = []

    def decodable() -> Iterator[Image.Image]:
        for place in track(range(len(pictures.keys)), f"encoding {pictures.name}", len(pictures.keys)):
            try:
                target(place)
                image = pictures.open(place)
            except InputError as error:
                failures.append(error)
                continue
            rows.append(place)
            yield image

    maps = encode_patches(encoder, [layer], decodable(), image_size)[layer]
    if not rows:
        first = f"; the first: {failures[0]}" if failures else ""
        raise DataError(f"{pictures.name}: no picture can be decoded{first}")
    return EncodedPictures(maps, np.array(rows), tuple(failures))
