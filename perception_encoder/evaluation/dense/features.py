"""A layer's patch features of pictures, checked, for the evaluators of dense tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.dense_prediction.head_fitting import Maps
from perception_encoder.errors import ConfigError, DataError, InputError, ModelError
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked

T = TypeVar("T")

PATCHES = 16_384
"""Patches that are encoded at a time."""
KEPT = 8e9
"""Bytes of features that are kept in memory; those of larger sets are computed anew in each pass."""


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
    bad = np.array([row for row, each in enumerate(features) if not np.isfinite(each).all()], dtype=np.int64)
    if len(bad):
        first = keys[bad[0]] if keys else f"item {bad[0]}"
        raise ModelError(
            f"{name}: NaN or infinity in the features of {len(bad)} of {len(features)} items; {first} first"
        )
    return features


def check_finite(features: Maps, name: str, keys: Sequence[str] = ()) -> None:
    """`check_maps` for features that are there; those that are computed when they are asked for are checked then."""
    if isinstance(features, np.ndarray):
        check_maps(features, name, keys)


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


class ComputedMaps:
    """A layer's features of pictures, encoded each time they are asked for: for sets that would fill the memory."""

    def __init__(
        self,
        encoder: LayerEncoder,
        layer: int,
        pictures: Pictures,
        rows: Sequence[int],
        image_size: tuple[int, int] | None,
        shape: tuple[int, ...],
    ) -> None:
        """`rows`: which of the pictures; `shape`: of one's features, (h, w, D)."""
        self.encoder, self.layer, self.pictures = encoder, layer, pictures
        self.rows, self.image_size, self.shape = np.asarray(rows), image_size, (len(rows), *shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: slice | np.ndarray) -> Float[np.ndarray, "b h w D"]:
        images = (self.pictures.open(int(row)) for row in self.rows[places])
        return encode_patches(self.encoder, [self.layer], images, self.image_size)[self.layer]


@dataclass(frozen=True)
class EncodedPictures(Generic[T]):
    """A layer's features of the pictures that could be used."""

    maps: Maps
    rows: np.ndarray
    """Which of the pictures these are, (n,)."""
    keys: tuple[str, ...]
    """Their names."""
    target: Callable[[int], T]
    failures: tuple[InputError, ...]
    """The others."""

    def truth(self, place: int) -> T:
        """What is known of the picture whose features are at a place."""
        return self.target(int(self.rows[place]))


def encode_both(
    encoder: LayerEncoder,
    layer: int,
    train: tuple[Pictures, Callable[[int], T]],
    test: tuple[Pictures, Callable[[int], T]],
    image_size: tuple[int, int] | None = None,
    track: Track = untracked,
) -> tuple[EncodedPictures[T], EncodedPictures[T]]:
    """`encode_decodable` of pictures to learn from and of pictures to measure on, each with what is known of them.

    ConfigError for a layer that does not exist.
    """
    check_layer(encoder, layer)
    learned, shown = (encode_decodable(encoder, layer, *each, image_size, track) for each in (train, test))
    return learned, shown


def encode_decodable(
    encoder: LayerEncoder,
    layer: int,
    pictures: Pictures,
    target: Callable[[int], T],
    image_size: tuple[int, int] | None = None,
    track: Track = untracked,
    kept: float = KEPT,
) -> EncodedPictures[T]:
    """Encode pictures at one layer, or where features would take more than `kept` bytes, see which can be decoded.

    `target`: decodes what is known of the picture at a place, here only to see whether that can be done; InputError
    where it cannot, or will not do. Raises DataError where none can be used.
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

    images = decodable()
    if (first := next(images, None)) is None:
        reason = f"; the first: {failures[0]}" if failures else ""
        raise DataError(f"{pictures.name}: no picture can be used{reason}")
    one = encode_patches(encoder, [layer], [first], image_size)[layer]
    if one.nbytes * len(pictures.keys) <= kept:
        rest = encode_patches(encoder, [layer], images, image_size)[layer]
        maps: Maps = np.concatenate([one, rest]) if len(rest) else one
    else:
        for _ in images:
            pass
        maps = ComputedMaps(encoder, layer, pictures, rows, image_size, one.shape[1:])
    keys = tuple(pictures.keys[row] for row in rows)
    return EncodedPictures(maps, np.array(rows), keys, target, tuple(failures))
