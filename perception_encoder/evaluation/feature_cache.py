"""Cache the tokens of layers: in a directory that later runs share, or in temporary files.

In a directory, a set of inputs has a subdirectory named by a digest of everything its features depend on: an array for
each layer, and `progress.json`, which is written after rows are on the disk, so that a killed run resumes after its
last complete chunk. Tokens that do not fit into temporary files are encoded again whenever they are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import DataError, InputError, MediaDecodeError, ModelError, OutputError, one_line
from perception_encoder.evaluation.inputs import EncoderInputs, check_finite, decode_chunks
from perception_encoder.files import holding, refuse_link, replacing, write_json, writing
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.records import from_fields
from perception_encoder.vectors import load_array

logger = logging.getLogger(__name__)

CHUNK = 64
"""Maximum number of items between two writes."""
BYTES = 2_000_000_000
"""Maximum bytes of all layers' float32 features in memory between two writes; at least one item."""
SPARE = 256 << 20  # bytes of disk that are left free
TEMPORARY = 8e9
"""Maximum bytes of features in temporary files; larger sets are encoded again in each pass."""
VERSION = 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ComputedRows:
    """An array (n, …) whose rows are encoded each time they are read."""

    rows: np.ndarray
    """Indices of the items, (n,)."""
    shape: Shape
    compute: Callable[[np.ndarray], np.ndarray]
    """Encodes items by their indices."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.compute(self.rows[rows])


Tokens = np.ndarray | ComputedRows
"""In memory, mapped from disk, or computed when read."""


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
    def patches(self) -> Tokens:
        """Return the patch tokens (n, h, w, D) of images, mapped or computed like the tokens."""
        tokens, width = self.tokens, self.tokens.shape[-1]
        if isinstance(tokens, np.ndarray):
            return tokens[:, self.prefix :].reshape(len(tokens), *self.grid, width)

        def compute(rows: np.ndarray) -> np.ndarray:
            return tokens.compute(rows)[:, self.prefix :].reshape(len(rows), *self.grid, width)

        return ComputedRows(tokens.rows, (len(tokens), *self.grid, width), compute)

    def mean(self, rows: np.ndarray | None = None) -> Float[np.ndarray, "n D"]:
        """Return the mean of each image's patches, float32, as `pe embed --pool mean` without normalisation.

        `rows`: indices of the images in `tokens`, by default all.
        """
        rows = np.arange(len(self.tokens)) if rows is None else rows
        chunks = np.array_split(rows, max(1, len(rows) // 256))
        parts = [self.tokens[chunk][:, self.prefix :].astype(np.float32).mean(axis=1) for chunk in chunks]
        return np.concatenate(parts)


@dataclass
class _Progress:
    """The current content of a cached set."""

    seen: int = 0
    """Number of items, including those that cannot be decoded."""
    prefix: int = 0
    grid: tuple[int, int] = (1, 1)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """Index, name and error of each item that cannot be decoded."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.seen - len(self.failures)


@dataclass(frozen=True, kw_only=True)
class CachedFeatures:
    """The features of a complete set of inputs."""

    progress: _Progress
    arrays: Mapping[int, Tokens]
    """Arrays by layer, with a row for each item that could be decoded; empty if none could."""
    key: str = ""
    """Digest of everything the features in a directory depend on."""

    @property
    def failures(self) -> tuple[InputError, ...]:
        """Items that could not be decoded."""
        return tuple(MediaDecodeError(name, reason) for _, name, reason in self.progress.failures)

    def read(self, layer: int) -> CachedTokens:
        """Return the features of a layer."""
        return CachedTokens(
            layer=layer,
            tokens=self.arrays[layer] if self.arrays else np.empty((0, 1, 1), np.float32),
            prefix=self.progress.prefix,
            grid=self.progress.grid,
            rows=_decoded(self.progress),
            failures=self.failures,
        )


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A directory of features, and how they are stored."""

    directory: Path
    dtype: str = "float16"
    """"float16", or "float32" for twice the space; a value beyond float16 is an error, not infinity."""
    chunk: int = CHUNK
    """Maximum number of items between two writes."""

    def encode_layers(
        self, encoder: LayerFeatures, inputs: EncoderInputs, layers: Sequence[int], track: Track = untracked
    ) -> CachedFeatures:
        """Encode inputs at several layers in one pass, except those that an earlier run encoded.

        Raises DataError for no inputs and for a mix of images and videos, ModelError if a feature is not finite or too
        large for float16, OutputError if the disk has no room or another run writes to the same directory.
        """
        key = self.key(encoder, inputs, layers)
        directory = self.directory / key
        message = f"another run is writing to {directory}; wait until it ends, or choose another directory"
        with holding(directory / "lock", message):
            progress = _read_progress(directory)
            if 0 < progress.seen < len(inputs.keys):
                logger.info("%s: resuming after %d of %d images", inputs.name, progress.seen, len(inputs.keys))
            _Pass(encoder, layers, inputs, self.dtype, progress, directory).run(self.chunk, track)
        arrays = {layer: _open(directory, layer, "r")[: progress.count] for layer in layers if progress.count}
        return CachedFeatures(progress=progress, arrays=arrays, key=key)

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


def encode_layer(
    encoder: LayerFeatures,
    inputs: EncoderInputs,
    layer: int,
    chunk: int = CHUNK,
    track: Track = untracked,
    limit: float = TEMPORARY,
) -> CachedTokens:
    """Encode inputs at one layer into a temporary file in float32; above `limit` bytes, at each reading.

    Raises DataError for no inputs and for a mix of images and videos, ModelError if a feature is not finite.
    """
    encoding = _Pass(encoder, [layer], inputs, "float32", _Progress(), limit=limit)
    encoding.run(chunk, track)
    rows = _decoded(encoding.progress)

    def compute(some: np.ndarray) -> np.ndarray:
        parts = [some[start : start + chunk] for start in range(0, len(some), chunk)]
        return np.concatenate([encoding.encode([inputs.open(int(row)) for row in part])[layer] for part in parts])

    arrays: dict[int, Tokens] = {number: array[: len(rows)] for number, array in encoding.arrays.items()}
    if encoding.shapes and not arrays:
        arrays = {layer: ComputedRows(rows, (len(rows), *encoding.shapes[layer][1:]), compute)}
    return CachedFeatures(progress=encoding.progress, arrays=arrays).read(layer)


@dataclass
class _Pass:
    """A pass over the items that are not encoded yet."""

    encoder: LayerFeatures
    layers: Sequence[int]
    inputs: EncoderInputs
    dtype: str
    progress: _Progress
    directory: Path | None = None
    limit: float = TEMPORARY
    shapes: dict[int, Shape] = field(default_factory=dict)
    """Shapes of the arrays by layer; empty before the first chunk."""
    arrays: dict[int, np.ndarray] = field(default_factory=dict)
    """Empty if they would not fit."""

    def run(self, chunk: int, track: Track) -> None:
        """Encode and write the items chunk by chunk: as many as fit into `BYTES`, from 1 to `chunk`."""
        height, width = self.inputs.image_size or self.encoder.image_size
        patches = height * width // self.encoder.patch_size**2
        chunk = max(1, min(chunk, BYTES // (4 * patches * self.encoder.width * len(self.layers))))
        progress = self.progress
        for end, items, failures in decode_chunks(self.inputs, progress.seen, chunk, track):
            if items and (self.arrays or not self.shapes):
                self.write(items)
            progress.seen = end
            progress.failures += [(row, error.source, error.reason) for row, error in failures]
            if self.directory is not None:
                write_json(self.directory / "progress.json", asdict(progress), indent=None)

    def encode(self, items: Sequence[Sequence[Image.Image]]) -> dict[int, np.ndarray]:
        """Return tokens (B, N, D) of opened items by layer; DataError unless all have the same number of images."""
        if len({len(item) for item in items}) > 1:
            raise DataError(f"{self.inputs.name} mixes images and videos; give datasets of one kind")
        images = [image for item in items for image in item]
        encoded = self.encoder.encode_layers(images, self.layers, self.inputs.image_size)
        arrays: dict[int, np.ndarray] = {}
        for layer in list(encoded):
            tokens = encoded.pop(layer)  # freed one by one: of a large model they are most of the memory
            n, h, w, width = tokens.patches.shape
            joined = np.concatenate([tokens.prefix, tokens.patches.reshape(n, h * w, width)], axis=1)  # (B·F, N, D)
            check_finite(joined, f"{self.encoder.name}, layer {layer},", self.inputs.name)
            arrays[layer] = joined.reshape(len(items), -1, width)
        self.progress.prefix, self.progress.grid = tokens.prefix.shape[1], (h, w)
        return arrays

    def write(self, items: Sequence[Sequence[Image.Image]]) -> None:
        """Encode items and write their rows."""
        encoded = self.encode(items)
        shapes = {layer: (len(self.inputs.keys), *values.shape[1:]) for layer, values in encoded.items()}
        if not self.shapes:
            self.shapes = shapes
            self.arrays = self.open_temporary() if self.directory is None else self.open_files(self.directory)
        if shapes != self.shapes:
            raise DataError(f"{self.inputs.name} mixes images and videos; give datasets of one kind")
        start = self.progress.count
        for layer, array in self.arrays.items():
            values = encoded.pop(layer)
            largest = float(np.abs(values).max())
            if largest > float(np.finfo(self.dtype).max):
                reason = f"gives {largest:.3g} in layer {layer}, too large for {self.dtype}"
                raise ModelError(f"{self.encoder.name} {reason}; store features as float32")
            array[start : start + len(values)] = values
            if self.directory is not None:
                cast(np.memmap, array).flush()

    def open_files(self, directory: Path) -> dict[int, np.ndarray]:
        """Open the arrays in a directory, new ones if it has no rows; OutputError if they do not fit on the disk."""
        if not self.progress.count:
            needed, free = self.size() + SPARE, shutil.disk_usage(directory).free
            if needed > free:  # writing to a map of a full disk would kill the process
                raise OutputError(
                    f"{directory} needs {needed / 1e9:,.1f} GB for features and the disk has {free / 1e9:,.1f} GB; use "
                    f"fewer or smaller images, fewer layers, or another directory"
                )
            with writing(directory):
                for layer, shape in self.shapes.items():
                    with replacing(_file(directory, layer)) as temporary:
                        np.lib.format.open_memmap(temporary, "w+", self.dtype, shape).flush()
        return {layer: _open(directory, layer, "r+") for layer in self.shapes}

    def open_temporary(self) -> dict[int, np.ndarray]:
        """Open temporary files; none if they exceed the limit or half of the disk."""
        if self.size() > min(self.limit, shutil.disk_usage(tempfile.gettempdir()).free / 2):
            return {}
        arrays: dict[int, np.ndarray] = {}
        for layer, shape in self.shapes.items():
            with tempfile.TemporaryFile() as file:
                arrays[layer] = np.memmap(file, self.dtype, "w+", shape=shape)
        return arrays

    def size(self) -> int:
        """Return the number of bytes of all arrays."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values()) * np.dtype(self.dtype).itemsize


def _decoded(progress: _Progress) -> np.ndarray:
    """Return the indices of the items that could be decoded, (n,), ascending."""
    return np.delete(np.arange(progress.seen), [index for index, _, _ in progress.failures])


def _file(directory: Path, layer: int) -> Path:
    return directory / f"layer_{layer:02d}.npy"


def _open(directory: Path, layer: int, mode: Literal["r", "r+"]) -> np.memmap:
    path = _file(directory, layer)
    if mode == "r+":
        refuse_link(path)
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
        return from_fields(_Progress, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({one_line(error)}); delete its directory to encode again") from None
