"""One cache for all features: embeddings in memory, layer tokens in temporary files or in a directory.

In a directory, each set of inputs has a subdirectory named by a digest of everything its features depend on. It
holds an array for each layer, and `progress.json`, which is written after rows are on the disk, so that a killed run
resumes after its last complete chunk and ends with the same bytes. A set that was begun with chunks of another length
is resumed too, but its later rows may differ by rounding. An item that cannot be decoded has no row, and is stored as a
failure. Temporary files go with the arrays in them; features that would not fit are encoded again whenever they are
read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.dense_prediction.head_fitting import Maps
from perception_encoder.errors import (
    ConfigError,
    DataError,
    InputError,
    MediaDecodeError,
    ModelError,
    OutputError,
    one_line,
)
from perception_encoder.evaluation.inputs import EncoderInputs, check_finite
from perception_encoder.files import holding, replacing, write_json, writing
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.records import from_fields
from perception_encoder.vectors import load_array, unit_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")

DTYPES = ("float16", "float32")
CHUNK = 64
"""Maximum number of items between two writes."""
BYTES = 2_000_000_000
"""Maximum bytes of all layers' float32 features in memory between two writes; at least one item."""
SPARE = 256 << 20  # bytes of disk that are left free
TEMPORARY = 8e9
"""Maximum bytes of features in temporary files; larger sets are encoded again in each pass."""
VERSION = 1
EMBEDDING = "embedding"
"""The name under which embeddings are cached."""


class Tokens(Protocol):
    """Tokens by item: an array (n, N, D), in memory, mapped from disk, or computed when read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, D)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """Return the tokens of a slice or an array of rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class CachedTokens:
    """The tokens of one layer for `EncoderInputs`."""

    layer: int
    tokens: Tokens
    """(n, N, D) of the items that could be decoded, prefix first; mapped from disk, so slices are cheap and copies are
    not. A video's tokens are those of its frames, one after the other."""
    prefix: int
    """Number of class and register tokens before the patches."""
    grid: tuple[int, int]
    rows: np.ndarray
    """Indices of these items, (n,) int64, ascending."""
    failures: tuple[InputError, ...] = ()
    """Items that could not be decoded."""

    @property
    def patches(self) -> Maps:
        """Return the patch tokens (n, h, w, D) of images, mapped or computed like the tokens."""
        if isinstance(self.tokens, np.ndarray):
            return self.tokens[:, self.prefix :].reshape(len(self.tokens), *self.grid, self.tokens.shape[-1])
        return ComputedPatches(self.tokens, self.prefix, self.grid)

    def mean(self) -> Float[np.ndarray, "n D"]:
        """Return the mean of each image's patches, float32, as `pe embed --pool mean` without normalisation."""
        chunks = np.array_split(np.arange(len(self.tokens)), max(1, len(self.tokens) // 256))
        parts = [self.tokens[rows][:, self.prefix :].astype(np.float32).mean(axis=1) for rows in chunks]
        return np.concatenate(parts)


@dataclass(frozen=True)
class ComputedPatches:
    """Patches of tokens that are computed when read."""

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
    """Arrays by name, with a row for each item, float32."""
    prefix: int = 0
    """Number of class and register tokens before the patches."""
    grid: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class LayerRows:
    """Tokens of some layers, prefix first; a video's frames follow one another."""

    encoder: LayerFeatures
    layers: Sequence[int]

    def encode(self, items: Sequence[Sequence[Image.Image]], inputs: EncoderInputs) -> EncodedRows:
        """Return tokens (B, N, D) of opened items by layer; DataError unless all have the same number of images."""
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
    """Tokens that are encoded each time they are read."""

    encoder: LayerRows | EmbeddingRows
    name: str
    """The array's."""
    inputs: EncoderInputs
    chunk: int
    """Number of items to encode at a time."""
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


@dataclass
class _Progress:
    """The current content of a cached set."""

    seen: int = 0
    """Number of items, including those that cannot be decoded."""
    prefix: int = 0
    grid: tuple[int, int] = (1, 1)
    width: int = 0
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """Index, name and error of each item that cannot be decoded."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.seen - len(self.failures)

    @property
    def rows(self) -> np.ndarray:
        """Indices of the items that could be decoded, (n,), ascending."""
        return np.delete(np.arange(self.seen), [index for index, _, _ in self.failures])


@dataclass(frozen=True, kw_only=True)
class CachedFeatures:
    """The features of a complete set of inputs."""

    progress: _Progress
    arrays: Mapping[str, Tokens]
    """Arrays by name, with a row for each item that could be decoded; empty if none could."""
    key: str = ""
    """Digest of everything the features in a directory depend on."""

    @property
    def failures(self) -> tuple[InputError, ...]:
        """Items that could not be decoded."""
        return tuple(MediaDecodeError(name, reason) for _, name, reason in self.progress.failures)

    @property
    def rows(self) -> np.ndarray:
        """Indices of the items that could be decoded, (n,), ascending."""
        return self.progress.rows

    def read(self, layer: int) -> CachedTokens:
        """Return the features of a layer."""
        return CachedTokens(
            layer=layer,
            tokens=self.arrays[array_name(layer)] if self.arrays else np.empty((0, 1, 1), np.float32),
            prefix=self.progress.prefix,
            grid=self.progress.grid,
            rows=self.rows,
            failures=self.failures,
        )


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Where and how features are cached."""

    directory: Path | None = None
    """Directory of the cache; by default temporary files."""
    dtype: str = "float16"
    """"float16", or "float32" for twice the space; a value beyond float16 is an error, not infinity."""
    chunk: int = CHUNK
    """Maximum number of items between two writes: see `chunk_size`."""
    limit: float = TEMPORARY
    """Maximum bytes in temporary files."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"the cache's dtype is {self.dtype!r}; it must be {' or '.join(DTYPES)}")

    @property
    def path(self) -> Path:
        """The directory; ConfigError for temporary files, which a later run cannot find."""
        if self.directory is None:
            raise ConfigError("the cache of layer analysis needs a directory; temporary files are for one layer")
        return self.directory

    def encode_layers(
        self, encoder: LayerFeatures, inputs: EncoderInputs, layers: Sequence[int], track: Track = untracked
    ) -> CachedFeatures:
        """Encode inputs at several layers in one pass, except those that an earlier run encoded.

        Raises DataError for no inputs and for a mix of images and videos, ModelError if a feature is not finite or too
        large for float16, OutputError if the disk has no room or another run writes to the same directory.
        """
        if not inputs.keys:
            raise DataError(f"{inputs.name} has no images")
        rows = LayerRows(encoder, layers)
        chunk = chunk_size(encoder, inputs.image_size or encoder.image_size, layers, self.chunk)
        if self.directory is None:
            return self.encode(rows, inputs, chunk, track)
        key = self.key(encoder, inputs, layers)
        directory = self.directory / key
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        message = f"another run is writing to {directory}; wait until it ends, or choose another directory"
        with holding(directory / "lock", message):
            progress = _read_progress(directory)
            if progress.seen < len(inputs.keys):
                _Pass(self, rows, inputs, chunk, progress, directory).run(track)
        names = map(array_name, layers if progress.count else ())
        arrays = {name: _open(directory / f"{name}.npy", "r")[: progress.count] for name in names}
        return CachedFeatures(progress=progress, arrays=arrays, key=key)

    def encode(
        self, encoder: LayerRows | EmbeddingRows, inputs: EncoderInputs, chunk: int, track: Track = untracked
    ) -> CachedFeatures:
        """Encode inputs, `chunk` items at a time: vectors into memory, anything else into temporary files."""
        encoding = _Pass(self, encoder, inputs, chunk, _Progress())
        encoding.run(track)
        return CachedFeatures(progress=encoding.progress, arrays=encoding.rows())

    def key(self, encoder: LayerFeatures, inputs: EncoderInputs, layers: Sequence[int]) -> str:
        """Return a digest of everything features depend on, but not of the names of the encoder and the inputs."""
        depends = {
            "version": VERSION,
            "encoder": dict(encoder.about),
            "layers": list(layers),
            "depth": encoder.depth,
            "size": list(inputs.image_size or encoder.image_size),
            "dtype": self.dtype,
            "images": inputs.digest,
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]

    def missing_bytes(self, encoder: LayerFeatures, image_sets: Sequence[EncoderInputs], layers: Sequence[int]) -> int:
        """Return how many bytes these images will add to the directory; encodes one image to learn a token's shape."""
        tokens = encoder.encode_layers([Image.new("RGB", (32, 32))], layers[:1])[layers[0]]
        prefix, width = tokens.prefix.shape[1], tokens.patches.shape[-1]
        total = 0
        for key, images in {self.key(encoder, item, layers): item for item in image_sets}.items():
            h, w = (side // encoder.patch_size for side in images.image_size or encoder.image_size)
            missing = len(_missing(self.path / key, map(array_name, layers)))
            total += missing * len(images.keys) * (prefix + h * w) * width * np.dtype(self.dtype).itemsize
        return total


@dataclass
class _Pass:
    """A pass over the items that are not encoded yet."""

    cache: FeatureCache
    encoder: LayerRows | EmbeddingRows
    inputs: EncoderInputs
    chunk: int
    progress: _Progress
    directory: Path | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the arrays; empty before the first chunk."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Empty if they would not fit."""

    def run(self, track: Track) -> None:
        """Encode and write the items chunk by chunk."""
        progress, count, name = self.progress, len(self.inputs.keys), self.inputs.name
        if progress.seen:
            logger.info("%s: resuming after %d of %d images", name, progress.seen, count)
        rows = range(progress.seen, count)
        numbered = zip(rows, decode_ahead(self.inputs.open, rows, self.chunk), strict=True)
        batch: list[Sequence[Image.Image]] = []
        failures: list[tuple[int, str, str]] = []
        for row, opened in track(numbered, f"encoding {name}", len(rows)):
            if isinstance(opened, InputError):
                failures.append((row, opened.source, opened.reason))
            else:
                batch.append(opened)
            if (row + 1) % self.chunk and row + 1 < count:
                continue
            if batch and (self.arrays or not self.shapes):
                self.write(batch)
            progress.seen = row + 1
            progress.failures += failures
            if self.directory is not None:
                write_json(self.directory / "progress.json", asdict(progress), indent=None)
            batch, failures = [], []

    def write(self, batch: Sequence[Sequence[Image.Image]]) -> None:
        """Encode items and write their rows."""
        encoded = self.encoder.encode(batch, self.inputs)
        shapes = {name: (len(self.inputs.keys), *values.shape[1:]) for name, values in encoded.arrays.items()}
        if not self.shapes:
            self.shapes, width = shapes, next(iter(shapes.values()))[-1]
            self.progress.prefix, self.progress.grid, self.progress.width = encoded.prefix, encoded.grid, width
            self.arrays = self.open_files(self.directory) if self.directory else self.open_temporary()
        if shapes != self.shapes:
            raise DataError(f"{self.inputs.name} mixes images and videos; give datasets of one kind")
        for name, array in self.arrays.items():
            values = encoded.arrays.pop(name)
            largest = float(np.abs(values).max())
            if largest > float(np.finfo(self.cache.dtype).max):
                reason = f"gives {largest:.3g} in {name}, too large for {self.cache.dtype}"
                raise ModelError(f"{self.encoder.encoder.name} {reason}; store features as float32")
            array[self.progress.count : self.progress.count + len(values)] = values
            if self.directory is not None:
                cast(np.memmap, array).flush()

    def open_files(self, directory: Path) -> dict[str, np.ndarray]:
        """Open the arrays in a directory, creating missing ones; OutputError if the disk is full."""
        missing = _missing(directory, self.shapes)
        check_space(directory, self.bytes_of(missing))
        with writing(directory):
            for name in missing:
                with replacing(directory / f"{name}.npy") as temporary:
                    np.lib.format.open_memmap(temporary, "w+", self.cache.dtype, self.shapes[name]).flush()
            return {name: _open(directory / f"{name}.npy", "r+") for name in self.shapes}

    def open_temporary(self) -> dict[str, np.ndarray]:
        """Open vectors in memory and others in temporary files; none if they exceed the limit or half of the disk."""
        dtype = self.cache.dtype
        if all(len(shape) == 2 for shape in self.shapes.values()):
            return {name: np.empty(shape, dtype) for name, shape in self.shapes.items()}
        if self.bytes_of(self.shapes) > min(self.cache.limit, shutil.disk_usage(tempfile.gettempdir()).free / 2):
            return {}
        arrays: dict[str, np.ndarray] = {}
        for name, shape in self.shapes.items():
            with tempfile.TemporaryFile() as file:
                arrays[name] = np.memmap(file, dtype, "w+", shape=shape)
        return arrays

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return the total size of some arrays."""
        return sum(int(np.prod(self.shapes[name])) for name in names) * np.dtype(self.cache.dtype).itemsize

    def rows(self) -> dict[str, Tokens]:
        """Return the rows of temporary arrays, or the object that computes them."""
        rows = self.progress.rows
        return {
            name: self.arrays[name][: len(rows)]
            if self.arrays
            else ComputedTokens(self.encoder, name, self.inputs, self.chunk, rows, (len(rows), *shape[1:]))
            for name, shape in self.shapes.items()
        }


def chunk_size(encoder: LayerFeatures, image_size: tuple[int, int], layers: Sequence[int], most: int = CHUNK) -> int:
    """Return the number of images between two writes: as many as fit into `BYTES`, from 1 to `most`."""
    height, width = image_size
    patches = height * width // encoder.patch_size**2
    return max(1, min(most, BYTES // (4 * patches * encoder.width * len(layers))))


def decode_ahead(decode: Callable[[int], T], rows: range, ahead: int) -> Iterator[T | InputError]:
    """Decode items in order, `ahead` at a time on all cores; yield the InputError of an item that fails."""

    def attempt(row: int) -> T | InputError:
        try:
            return decode(row)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), ahead):
            yield from pool.map(attempt, rows[start : start + ahead])


def check_space(directory: Path, needed: int) -> None:
    """Raise OutputError if the disk of a directory, which need not exist, has fewer free bytes than needed."""
    free = shutil.disk_usage(next(item for item in (directory, *directory.absolute().parents) if item.exists())).free
    if needed + SPARE > free:
        raise OutputError(
            f"{directory} needs {show_bytes(needed)} for features and the disk has {show_bytes(free)}; use fewer or "
            f"smaller images, fewer layers, or another directory"
        )


def show_bytes(count: int) -> str:
    """Format a number of bytes in MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _missing(directory: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (directory / f"{name}.npy").is_file()]


def _open(path: Path, mode: Literal["r", "r+"]) -> np.memmap:
    try:
        return cast(np.memmap, load_array(path, mode))
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise DataError(f"{path} is missing or damaged ({reason}); delete its directory to encode again") from None


def _read_progress(directory: Path) -> _Progress:
    path = directory / "progress.json"
    if not path.is_file():
        return _Progress()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return from_fields(_Progress, value)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}); delete its directory to encode again") from None
