"""The tokens of one layer, for evaluators of layers: cached in a temporary file if they fit, else encoded again.

Layer analysis, which reads all layers of a dataset many times, extracts the same `LayerFeatures` into a store on disk
(layer_analysis/store.py); an evaluator cannot tell the two apart.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.dense_prediction.head_fitting import Maps
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.features import check_finite, decode_ahead
from perception_encoder.formats.media_directory import Clip, MediaSource
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked

CHUNK, PATCHES = 32, 16_384
"""Items, and patches of images, that are encoded at a time."""
CACHE = 8e9
"""Bytes of features that are cached; those of larger datasets are computed again in each pass."""


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
class LayerImages:
    """Images, or videos, that are encoded together, at one size."""

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
    ) -> LayerImages:
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
class LayerFeatures:
    """The tokens of one layer for `LayerImages`."""

    layer: int
    tokens: Tokens
    """(n, N, D) of the items that could be decoded, prefix first; mapped from disk, so slices are cheap and copies are
    not. A video's tokens are those of its frames, one after the other."""
    prefix: int
    """The number of class and register tokens before the patches."""
    grid: tuple[int, int]
    patch_size: int
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


@dataclass(frozen=True)
class OneLayer:
    """One layer of an encoder: the model that evaluators of layers run on."""

    encoder: LayerEncoder
    layer: int
    """0-based."""

    def __post_init__(self) -> None:
        if not 0 <= self.layer < self.encoder.depth:
            raise ConfigError(
                f"layer {self.layer} does not exist; {self.name} has layers 0 to {self.encoder.depth - 1}"
            )

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    def encode(
        self, items: Sequence[Sequence[Image.Image]], images: LayerImages
    ) -> tuple[Float[np.ndarray, "B N D"], int, tuple[int, int]]:
        """Return tokens of opened items, the length of their prefix and their grid; all of as many images."""
        if len({len(item) for item in items}) > 1:
            raise DataError(f"{images.name} mixes images and videos; give datasets of one kind")
        flat = [image for item in items for image in item]
        layer = self.encoder.encode_layers(flat, [self.layer], images.image_size)[self.layer]
        n, h, w, width = layer.patches.shape
        tokens = np.concatenate([layer.prefix, layer.patches.reshape(n, h * w, width)], axis=1)  # (B·F, N, D)
        check_finite(tokens, f"{self.name}, layer {self.layer},", images.name)
        return tokens.reshape(len(items), -1, width), layer.prefix.shape[1], (h, w)


class ComputedTokens:
    """Tokens that are encoded whenever they are read."""

    def __init__(self, model: OneLayer, images: LayerImages, rows: Sequence[int], shape: tuple[int, ...]) -> None:
        """`rows`: the items to encode; `shape`: of one item's tokens, (N, D)."""
        self.model, self.images, self.rows, self.shape = model, images, np.asarray(rows), (len(rows), *shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        selected = self.rows[rows]
        parts = [selected[start : start + CHUNK] for start in range(0, len(selected), CHUNK)]
        opened = ([self.images.open(int(row)) for row in part] for part in parts)
        return np.concatenate([self.model.encode(items, self.images)[0] for items in opened])


def encode_layer(model: OneLayer, images: LayerImages, track: Track = untracked, cache: float = CACHE) -> LayerFeatures:
    """Encode images at one layer, float32, cached in a temporary file if all fit in `cache` bytes and on the disk.

    No rows if none can be decoded. Raises DataError for a mix of images and videos, and ModelError if a token is not
    finite.
    """
    store: np.ndarray | None = None
    shape: tuple[int, ...] = (1, 1)
    prefix, grid = 0, (1, 1)
    rows: list[int] = []
    failures: list[InputError] = []
    count = len(images.keys)
    height, width = images.image_size or model.encoder.image_size
    chunk = max(1, min(CHUNK, PATCHES * model.encoder.patch_size**2 // (height * width)))
    decoded = track(decode_ahead(images.open, range(count), chunk), f"encoding {images.name}", count)
    numbered = enumerate(decoded)
    while batch := list(islice(numbered, chunk)):
        failures += [opened for _, opened in batch if isinstance(opened, InputError)]
        good = [(row, opened) for row, opened in batch if not isinstance(opened, InputError)]
        if good and (store is not None or not rows):
            tokens, prefix, grid = model.encode([opened for _, opened in good], images)
            if not rows:
                shape = tokens.shape[1:]
                store = _temporary_array((count, *shape), cache)
            if store is not None:
                if tokens.shape[1:] != shape:
                    raise DataError(f"{images.name} mixes images and videos; give datasets of one kind")
                store[len(rows) : len(rows) + len(good)] = tokens
        rows += [row for row, _ in good]
    if not rows:
        store = np.empty((0, *shape), np.float32)
    return LayerFeatures(
        layer=model.layer,
        tokens=ComputedTokens(model, images, rows, shape) if store is None else store[: len(rows)],
        prefix=prefix,
        grid=grid,
        patch_size=model.encoder.patch_size,
        rows=np.array(rows, dtype=np.int64),
        failures=tuple(failures),
    )


def check_maps(features: Maps, name: str, keys: Sequence[str] = ()) -> None:
    """Raise ModelError for features that are not finite; computed ones are checked when they are read."""
    if isinstance(features, np.ndarray):
        check_finite(features, "the layer", name, keys)


def _temporary_array(shape: tuple[int, ...], limit: float) -> np.ndarray | None:
    """Return an array in a temporary file, which goes with it; None if it exceeds the limit or half of the disk."""
    size = 4 * int(np.prod(shape))
    if size > min(limit, shutil.disk_usage(tempfile.gettempdir()).free / 2):
        return None
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def content_digest(sources: Sequence[MediaSource]) -> str:
    """Return a SHA-256 of the content of files, in order; a missing one counts as empty, for it is reported later."""
    digest = hashlib.sha256()
    for source in sources:
        content = source if isinstance(source, bytes) else _read(source)
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:20]


def _read(source: Path | Clip) -> bytes:
    try:
        return (source.path if isinstance(source, Clip) else source).read_bytes()
    except OSError:
        return b""


def settings_digest(*parts: object) -> str:
    """Return a SHA-256 of how settings are written, the first 20 digits."""
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:20]
