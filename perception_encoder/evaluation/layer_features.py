"""The inputs that are encoded for evaluators, the rows of their features, and the tokens of one layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.dense_prediction.head_fitting import Maps
from perception_encoder.errors import (
    DataError,
    InputError,
    MediaDecodeError,
    MediaNotFoundError,
    ModelError,
)
from perception_encoder.formats.media_directory import Clip, MediaSource
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import unit_rows

EMBEDDING = "embedding"
"""The name under which embeddings are cached."""


class Tokens(Protocol):
    """Tokens by item: an array (n, N, D), in memory or mapped from disk, or one that is computed when it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, D)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the tokens of a slice or of an array of rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncoderInputs:
    """Images or videos that are encoded together, at one size."""

    name: str
    """Names them while they are encoded, and in errors."""
    keys: tuple[str, ...]
    open: Callable[[int], Sequence[Image.Image]]
    """Opens an item: one image, or the frames of a video; raises InputError if it cannot be decoded."""
    compute_digest: Callable[[], str]
    """Of the images' content; called if features are stored."""
    image_size: tuple[int, int] | None = None
    """Height and width they are squashed to, multiples of the patch; the encoder's own by default."""

    @cached_property
    def digest(self) -> str:
        """Of the images' content: features are stored under it."""
        return self.compute_digest()

    @classmethod
    def of(
        cls,
        name: str,
        images: ImageSet,
        target: Callable[[int], object],
        image_size: tuple[int, int] | None = None,
        track: Track = untracked,
    ) -> EncoderInputs:
        """Take the images of a dataset whose targets are usable: an InputError of `target` is that of its image.

        Targets are decoded once for it, so that failures are known before anything is encoded.
        """
        failures: dict[int, InputError] = {}
        for row in track(range(len(images.keys)), f"reading the targets of {name}", len(images.keys)):
            try:
                target(row)
            except InputError as error:
                failures[row] = error

        def open_row(row: int) -> list[Image.Image]:
            if row in failures:
                raise failures[row]
            return [images.open(row)]

        def digest() -> str:
            return content_digest(images.images) + (f", without {sorted(failures)}" if failures else "")

        return cls(name=name, keys=images.keys, open=open_row, compute_digest=digest, image_size=image_size)


@dataclass(frozen=True, kw_only=True)
class CachedTokens:
    """The tokens of one layer for `EncoderInputs`."""

    layer: int
    tokens: Tokens
    """(n, N, D) of the items that could be decoded, prefix first; mapped from disk, so slices are cheap and copies are
    not. A video's tokens are those of its frames, one after the other."""
    prefix: int
    """The number of class and register tokens before the patches."""
    grid: tuple[int, int]
    rows: np.ndarray
    """The indices of these items, (n,) int64, ascending."""
    failures: tuple[InputError, ...] = ()
    """The items that could not be decoded."""

    @property
    def patches(self) -> Maps:
        """The patch tokens (n, h, w, D) of images, still mapped or computed if the tokens are."""
        if isinstance(self.tokens, np.ndarray):
            return self.tokens[:, self.prefix :].reshape(len(self.tokens), *self.grid, self.tokens.shape[-1])
        return ComputedPatches(self.tokens, self.prefix, self.grid)

    def mean(self) -> Float[np.ndarray, "n D"]:
        """Return the mean of each image's patches, float32: the embedding of `pe embed --pool mean`, unnormalised."""
        chunks = np.array_split(np.arange(len(self.tokens)), max(1, len(self.tokens) // 256))
        parts = [self.tokens[rows][:, self.prefix :].astype(np.float32).mean(axis=1) for rows in chunks]
        return np.concatenate(parts)


@dataclass(frozen=True)
class ComputedPatches:
    """The patches of tokens that are computed when they are read."""

    tokens: Tokens
    prefix: int
    grid: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, h, w, D)."""
        return len(self.tokens), *self.grid, self.tokens.shape[-1]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        tokens = self.tokens[rows]
        return tokens[:, self.prefix :].reshape(len(tokens), *self.grid, tokens.shape[-1])


class EncodedRows(NamedTuple):
    """Features of some items."""

    arrays: dict[str, np.ndarray]
    """By name, each with a row for each item, float32."""
    prefix: int = 0
    """The number of class and register tokens before the patches."""
    grid: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class LayerRows:
    """The tokens of some layers, the prefix first; a video's are those of its frames, one after the other."""

    encoder: LayerFeatures
    layers: Sequence[int]

    def encode(self, items: Sequence[Sequence[Image.Image]], inputs: EncoderInputs) -> EncodedRows:
        """Return tokens (B, N, D) of opened items by layer; all items are of as many images, or DataError is raised."""
        if len({len(item) for item in items}) > 1:
            raise DataError(f"{inputs.name} mixes images and videos; give datasets of one kind")
        images = [image for item in items for image in item]
        encoded = self.encoder.encode_layers(images, self.layers, inputs.image_size)
        arrays: dict[str, np.ndarray] = {}
        for layer in list(encoded):
            tokens = encoded.pop(layer)  # freed one by one: of a large model they are most of the memory
            n, h, w, width = tokens.patches.shape
            joined = np.concatenate([tokens.prefix, tokens.patches.reshape(n, h * w, width)], axis=1)  # (B·F, N, D)
            check_finite(joined, f"{self.encoder.name}, layer {layer},", inputs.name)
            arrays[array_name(layer)] = joined.reshape(len(items), -1, width)
        return EncodedRows(arrays, tokens.prefix.shape[1], (h, w))


@dataclass(frozen=True)
class EmbeddingRows:
    """Unit embeddings; a video's is that of the mean of its frames."""

    encoder: Encoder

    def encode(self, items: Sequence[Sequence[Image.Image]], inputs: EncoderInputs) -> EncodedRows:
        """Return unit embeddings (B, D) of opened items, their images or frames encoded together."""
        images, name = [image for item in items for image in item], self.encoder.name
        if len(images) == len(items):
            return EncodedRows({EMBEDDING: check_finite(self.encoder.encode_images(images), name, inputs.name)})
        frames = check_finite(self.encoder.encode_images(images, normalize=False), name, inputs.name)
        starts = np.cumsum([0, *(len(item) for item in items[:-1])])
        sums = np.add.reduceat(frames, starts, axis=0)  # as long as the means times a constant, which does not matter
        return EncodedRows({EMBEDDING: unit_rows(sums)})


@dataclass(frozen=True)
class ComputedTokens:
    """Tokens that are encoded whenever they are read."""

    encoder: LayerRows | EmbeddingRows
    name: str
    """The array's."""
    inputs: EncoderInputs
    chunk: int
    """Items that are encoded at a time."""
    rows: np.ndarray
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        selected = self.rows[rows]
        parts = [selected[start : start + self.chunk] for start in range(0, len(selected), self.chunk)]
        opened = ([self.inputs.open(int(row)) for row in part] for part in parts)
        return np.concatenate([self.encoder.encode(items, self.inputs).arrays[self.name] for items in opened])


def array_name(layer: int) -> str:
    """Return the name under which a layer's tokens are cached."""
    return f"layer_{layer:02d}"


def check_maps(features: Maps, name: str, keys: Sequence[str] = ()) -> None:
    """Raise ModelError for features that are not finite; computed ones are checked when they are read."""
    if isinstance(features, np.ndarray):
        check_finite(features, "the layer", name, keys)


def check_finite(features: np.ndarray, model: str, inputs: str, keys: Sequence[str] = ()) -> np.ndarray:
    """Return features (n, …) unchanged; `ModelError`, naming the first item, if one holds NaN or infinity."""
    bad = np.flatnonzero([not np.isfinite(each).all() for each in features])
    if len(bad):
        first = f", {keys[bad[0]]} first" if keys else ""
        raise ModelError(
            f"{model} gives NaN or infinity in {len(bad)} of {len(features)} vectors of {inputs}{first}; try float32"
        )
    return features


def content_digest(sources: Sequence[MediaSource]) -> str:
    """Return a SHA-256 of the content of files and of the ranges of clips, in order.

    A missing file counts as empty, for it is reported later.
    """
    digest = hashlib.sha256()
    for source in sources:
        content = source if isinstance(source, bytes) else _read(source)
        digest.update(len(content).to_bytes(8, "little") + content)
        if isinstance(source, Clip):
            digest.update(f"{source.start} {source.end}".encode())
    return digest.hexdigest()[:20]


def _read(source: Path | Clip | TarMember) -> bytes:
    try:
        if isinstance(source, TarMember):
            return source.read(str(source.tar))
        return (source.path if isinstance(source, Clip) else source).read_bytes()
    except (OSError, MediaDecodeError, MediaNotFoundError):
        return b""


def settings_digest(*parts: object) -> str:
    """Return a SHA-256 of how settings are written, the first 20 digits."""
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:20]
