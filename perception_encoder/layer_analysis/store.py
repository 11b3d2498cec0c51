"""The store: all layers' features of a set of images on disk, written in one pass and read a layer at a time.

Each set of images has a directory, named by a digest of all that its features depend on. It holds an array for each
layer, and `progress.json`, which is written after rows are on the disk, so that a killed run resumes after its last
complete chunk and ends with the same bytes. A set that was begun with chunks of another length is resumed too, but its
later rows may differ by rounding. An image that cannot be decoded has no row, and is stored as a failure.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, MediaDecodeError, ModelError, OutputError
from perception_encoder.evaluation.features import decode_ahead
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.files import holding, replacing, write_json, writing
from perception_encoder.inference.layer_encoder import StoredEncoder
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

DTYPES = ("float16", "float32")
CHUNK = 64
"""The most images between two writes of the progress."""
BYTES = 2_000_000_000
"""Of all layers' float32 features in memory between two writes, unless one image takes more."""
SPARE = 256 << 20  # bytes of disk that are left free
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where features are stored, and how."""

    directory: Path
    dtype: str = "float16"
    """"float16", or "float32" for twice the space; a value beyond float16 is an error, not infinity."""
    chunk: int = CHUNK
    """The most images between two writes of the progress: see `chunk_size`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"the store's dtype is {self.dtype!r}; it must be {' or '.join(DTYPES)}")


@dataclass
class _Progress:
    """The content of a set's directory so far."""

    seen: int = 0
    """The number of images, those that cannot be decoded included."""
    prefix: int = 0
    grid: list[int] = field(default_factory=list)
    width: int = 0
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """Index, name and reason of each image that cannot be decoded."""

    @property
    def rows(self) -> int:
        return self.seen - len(self.failures)


@dataclass(frozen=True)
class StoredLayers:
    """The features of a complete set of images."""

    directory: Path
    progress: _Progress
    patch_size: int

    @property
    def key(self) -> str:
        """The digest of all that the features depend on."""
        return self.directory.name

    @property
    def failures(self) -> tuple[InputError, ...]:
        """The images that could not be decoded."""
        return tuple(MediaDecodeError(name, reason) for _, name, reason in self.progress.failures)

    def read(self, layer: int) -> LayerFeatures:
        """Map the features of a layer; DataError if its file is damaged."""
        progress = self.progress
        path = self.directory / _file_name(layer)
        return LayerFeatures(
            layer=layer,
            tokens=_open(path, "r")[: progress.rows] if progress.rows else np.empty((0, 1, 1), np.float32),
            prefix=progress.prefix,
            grid=(progress.grid[0], progress.grid[1]) if progress.rows else (1, 1),
            patch_size=self.patch_size,
            rows=np.delete(np.arange(progress.seen), [index for index, _, _ in progress.failures]),
            failures=self.failures,
        )


def extract(
    encoder: StoredEncoder,
    images: LayerImages,
    layers: Sequence[int],
    config: StoreConfig,
    track: Track = untracked,
) -> StoredLayers:
    """Encode images at several layers in one pass, or what an earlier run did not encode.

    Raises DataError for no images, ModelError if a feature is not finite or too large for float16, OutputError if the
    disk has no room or another run writes to the same directory.
    """
    if not images.keys:
        raise DataError(f"{images.name}: it has no images")
    directory = config.directory / feature_key(encoder, images, layers, config)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    message = f"another run writes to {directory}; wait until it is done, or choose another store"
    with holding(directory / "lock", message):
        progress = _read_progress(directory)
        if progress.seen < len(images.keys):
            _Extraction(encoder, images, layers, config, directory, progress).run(track)
    return StoredLayers(directory, progress, encoder.patch_size)


def feature_key(encoder: StoredEncoder, images: LayerImages, layers: Sequence[int], config: StoreConfig) -> str:
    """Return a digest of all that features depend on; the names of the encoder and of the images are not part of it."""
    depends = {  # other keys would be another digest, and existing stores would not be read
        "version": VERSION,
        "encoder": dict(encoder.about),
        "layers": list(layers),
        "depth": encoder.depth,
        "size": list(images.image_size or encoder.image_size),
        "kept as": config.dtype,
        "pictures": images.digest,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]


def chunk_size(encoder: StoredEncoder, image_size: tuple[int, int], layers: Sequence[int], most: int = CHUNK) -> int:
    """Return the number of images between two writes: as many as `BYTES` hold, from 1 to `most`."""
    height, width = image_size
    patches = height * width // encoder.patch_size**2
    return max(1, min(most, BYTES // (4 * patches * encoder.width * len(layers))))


@dataclass
class _Extraction:
    """A pass over the images that are not encoded yet."""

    encoder: StoredEncoder
    images: LayerImages
    layers: Sequence[int]
    config: StoreConfig
    directory: Path
    progress: _Progress

    def run(self, track: Track) -> None:
        """Encode and write the images chunk by chunk."""
        images, progress, count = self.images, self.progress, len(self.images.keys)
        if progress.seen:
            logger.info("%s: resuming after %d of %d images", images.name, progress.seen, count)
        chunk = chunk_size(self.encoder, images.image_size or self.encoder.image_size, self.layers, self.config.chunk)
        rows = range(progress.seen, count)
        numbered = zip(rows, decode_ahead(images.open, rows, chunk), strict=True)
        arrays: dict[int, np.memmap] = {}
        batch: list[Image.Image] = []
        failures: list[tuple[int, str, str]] = []
        for row, opened in track(numbered, f"encoding {images.name}", len(rows)):
            if isinstance(opened, InputError):
                failures.append((row, opened.source, opened.reason))
            else:
                batch.extend(opened)
            if (row + 1) % chunk and row + 1 < count:
                continue
            if batch:
                tokens = self.encode(batch)
                arrays = arrays or self.open_arrays()
                for layer, values in tokens.items():
                    arrays[layer][progress.rows : progress.rows + len(batch)] = values
                    arrays[layer].flush()
            progress.seen = row + 1
            progress.failures += failures
            write_json(self.directory / "progress.json", asdict(progress), indent=None)
            batch, failures = [], []

    def encode(self, batch: list[Image.Image]) -> dict[int, np.ndarray]:
        """Return tokens (n, N, D) by layer in the store's type; record their prefix, grid and width."""
        encoded = self.encoder.encode_layers(batch, self.layers, self.images.image_size)
        dtype, name, joined = self.config.dtype, self.encoder.name, {}
        for layer in list(encoded):
            tokens = encoded.pop(layer)  # freed one by one, because float32 takes twice what is stored
            n, h, w, width = tokens.patches.shape
            values = np.concatenate([tokens.prefix, tokens.patches.reshape(n, h * w, width)], axis=1)
            largest = float(np.abs(values).max())  # NaN if one value is
            if not np.isfinite(largest):
                raise ModelError(f"{name} gives NaN or infinity at layer {layer}, for images of {self.images.name}")
            if largest > float(np.finfo(dtype).max):
                reason = f"gives {largest:.3g} at layer {layer}, too large for {dtype}"
                raise ModelError(f"{name} {reason}; store features as float32")
            joined[layer] = values.astype(dtype)
            self.progress.prefix, self.progress.grid, self.progress.width = tokens.prefix.shape[1], [h, w], width
        return joined

    def open_arrays(self) -> dict[int, np.memmap]:
        """Open the layers' arrays, and create missing ones; OutputError if the disk has no room for them."""
        height, width = self.progress.grid
        shape = (len(self.images.keys), self.progress.prefix + height * width, self.progress.width)
        missing = _missing(self.directory, self.layers)
        check_space(self.directory, len(missing) * int(np.prod(shape)) * np.dtype(self.config.dtype).itemsize)
        with writing(self.directory):
            for layer in missing:
                with replacing(self.directory / _file_name(layer)) as temporary:
                    np.lib.format.open_memmap(temporary, "w+", self.config.dtype, shape).flush()
            return {layer: _open(self.directory / _file_name(layer), "r+") for layer in self.layers}


def missing_bytes(
    encoder: StoredEncoder, image_sets: Sequence[LayerImages], layers: Sequence[int], config: StoreConfig
) -> int:
    """Return how many bytes the features will add to the store; one image is encoded to know their shape."""
    tokens = encoder.encode_layers([Image.new("RGB", (32, 32))], layers[:1])[layers[0]]
    prefix, width = tokens.prefix.shape[1], tokens.patches.shape[-1]
    total = 0
    for key, images in {feature_key(encoder, each, layers, config): each for each in image_sets}.items():
        h, w = (side // encoder.patch_size for side in images.image_size or encoder.image_size)
        missing = len(_missing(config.directory / key, layers))
        total += missing * len(images.keys) * (prefix + h * w) * width * np.dtype(config.dtype).itemsize
    return total


def check_space(directory: Path, needed: int) -> None:
    """Raise OutputError if the disk of a directory, which need not exist, has no room for so many bytes."""
    free = shutil.disk_usage(next(each for each in (directory, *directory.absolute().parents) if each.exists())).free
    if needed + SPARE > free:
        raise OutputError(
            f"{directory} needs {show_bytes(needed)} for features and the disk has {show_bytes(free)}; use fewer or "
            f"smaller images, fewer layers, or another directory"
        )


def show_bytes(count: int) -> str:
    """Return bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _file_name(layer: int) -> str:
    return f"layer_{layer:02d}.npy"


def _missing(directory: Path, layers: Sequence[int]) -> list[int]:
    return [layer for layer in layers if not (directory / _file_name(layer)).is_file()]


def _open(path: Path, mode: Literal["r", "r+"]) -> np.memmap:
    try:
        return cast(np.memmap, np.load(path, mmap_mode=mode))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); delete its directory to encode again") from None


def _read_progress(directory: Path) -> _Progress:
    path = directory / "progress.json"
    if not path.is_file():
        return _Progress()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        failures = [(int(index), str(name), str(reason)) for index, name, reason in value["failures"]]
        return _Progress(**{**value, "failures": failures})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); delete its directory to encode again") from None
