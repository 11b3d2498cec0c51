"""Cache the tokens of layers: in a directory that later runs share, or in temporary files.

In a directory, a set of inputs has a store named by a digest of everything its features depend on: a file of rows for
each layer, and a record for each complete chunk. Tokens that do not fit into temporary files are encoded again whenever
they are read.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import DataError, InputError, MediaDecodeError, ModelError, OutputError
from perception_encoder.evaluation.inputs import EncoderInputs, decode_chunks
from perception_encoder.files import digest
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.store import Data, Records, Span, Store

logger = logging.getLogger(__name__)

CHUNK = 64
BYTES = 2_000_000_000
"""Maximum bytes of all layers' float32 features in memory between two writes; at least one item."""
SPARE = 256 << 20  # bytes of disk that are left free
TEMPORARY = 8e9
"""Maximum bytes of features in temporary files; larger sets are encoded again in each pass."""
VERSION = 2

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ComputedRows:
    """An array (n, …) whose rows are encoded each time they are read."""

    rows: np.ndarray
    shape: Shape
    compute: Callable[[np.ndarray], np.ndarray]

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
    failures: tuple[InputError, ...] = ()

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
        """Return the mean of each item's patches, float32, as `pe embed --pool mean` without normalization.

        `rows`: indices of the items in `tokens`, by default all.
        """
        rows = np.arange(len(self.tokens)) if rows is None else rows
        width, frame = self.tokens.shape[-1], self.prefix + self.grid[0] * self.grid[1]
        parts = []
        for chunk in np.array_split(rows, max(1, len(rows) // 256)):
            frames = self.tokens[chunk].reshape(-1, frame, width)[:, self.prefix :].astype(np.float32)
            parts.append(frames.reshape(len(chunk), -1, width).mean(axis=1))
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A complete chunk of items, whose rows are in the files."""

    end: int
    """Number of items up to here, including those that cannot be decoded."""
    shape: tuple[int, int]
    """(N, D) of a row; (0, 0) before the first item that can be decoded."""
    prefix: int
    grid: tuple[int, int]
    failures: tuple[tuple[int, str, str], ...]
    """Index, name and error of each item that cannot be decoded."""
    spans: dict[str, Span]
    """Where each layer's rows are."""


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A directory of features, and how they are stored."""

    directory: Path
    dtype: str = "float16"
    """"float16", or "float32" for twice the space; a value beyond float16 is an error, not infinity."""

    def key(self, encoder: LayerFeatures, inputs: EncoderInputs, layers: Sequence[int]) -> str:
        """Return a digest of everything features depend on, but not of the names of the encoder and the inputs."""
        return digest(self.depends(encoder, inputs, layers))

    def depends(self, encoder: LayerFeatures, inputs: EncoderInputs, layers: Sequence[int]) -> dict[str, Any]:
        """Return everything features depend on."""
        return {
            "version": VERSION,
            "encoder": dict(encoder.about),
            "layers": list(layers),
            "depth": encoder.depth,
            "size": list(inputs.image_size or encoder.image_size),
            "dtype": self.dtype,
            "images": inputs.digest,
        }


def encode_layers(
    encoder: LayerFeatures,
    inputs: EncoderInputs,
    layers: Sequence[int],
    cache: FeatureCache | None = None,
    track: Track = untracked,
    chunk: int = CHUNK,
    limit: float = TEMPORARY,
) -> dict[int, CachedTokens]:
    """Encode inputs at several layers in one pass; return their tokens by layer.

    Args:
        cache: Where to store the tokens: those that an earlier run stored are not encoded again. By default a temporary
            file in float32.
        chunk: Maximum number of items between two writes.
        limit: Maximum bytes in the temporary file; above it tokens are encoded at each reading.

    Raises:
        DataError: There are no inputs, both images and videos, or damaged files.
        ModelError: A feature is not finite, or too large for float16.
        OutputError: The disk has no room, or another run writes to the same directory.
    """
    with ExitStack() as stack:
        if cache is None:
            directory, depends, dtype = Path(stack.enter_context(tempfile.TemporaryDirectory())), {}, "float32"
            limit = min(limit, shutil.disk_usage(directory).free / 2)
        else:
            depends, dtype, limit = cache.depends(encoder, inputs, layers), cache.dtype, math.inf
            directory = cache.directory / digest(depends)
        store = stack.enter_context(Store(directory, depends, remedy="delete its directory to encode again"))
        encoding = _Pass(encoder, layers, inputs, dtype, store, chunk)
        encoding.run(track, limit)
        return encoding.tokens()


class _Pass:
    """A pass over the items that are not encoded yet."""

    def __init__(
        self, encoder: LayerFeatures, layers: Sequence[int], inputs: EncoderInputs, dtype: str, store: Store, chunk: int
    ) -> None:
        """`chunk`: the most items between two writes; fewer if their features would exceed `BYTES`."""
        self.encoder, self.layers, self.inputs, self.dtype, self.store = encoder, layers, inputs, dtype, store
        height, width = inputs.image_size or encoder.image_size
        patches = height * width // encoder.patch_size**2
        self.chunk = max(1, min(chunk, BYTES // (4 * patches * encoder.width * len(layers))))
        self.chunks: Records[_Chunk] = store.records(_Chunk, "chunks")
        self.files: dict[int, Data] = {layer: store.data(f"layer_{layer:02d}.{dtype}") for layer in layers}
        start = _Chunk(end=0, shape=(0, 0), prefix=0, grid=(1, 1), failures=(), spans={})
        last = [start, *self.chunks.rows][-1]
        self.end, self.shape, self.prefix, self.grid = last.end, last.shape, last.prefix, last.grid
        self.dropped = False
        """Whether the rows exceed the limit, so that nothing is written."""

    @property
    def count(self) -> int:
        return self.end - sum(len(chunk.failures) for chunk in self.chunks.rows)

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def tokens(self) -> dict[int, CachedTokens]:
        """Return the items' tokens by layer; DataError for a file that is missing or cut."""
        failed = [failure for chunk in self.chunks.rows for failure in chunk.failures]
        rows = np.delete(np.arange(self.end), [row for row, _, _ in failed])
        failures = tuple(MediaDecodeError(name, reason) for _, name, reason in failed)
        found = {}
        for layer in self.layers:
            shape, tokens = (len(rows), *self.shape), cast(Tokens, np.empty((0, 1, 1), np.float32))
            if self.dropped:
                tokens = ComputedRows(rows, shape, partial(self.compute, layer))
            elif len(rows):
                tokens = self.files[layer].array(self.dtype, shape)
            found[layer] = CachedTokens(
                layer=layer, tokens=tokens, prefix=self.prefix, grid=self.grid, rows=rows, failures=failures
            )
        return found

    def compute(self, layer: int, rows: np.ndarray) -> np.ndarray:
        """Encode items by their indices, as many at a time as in the first pass."""
        parts = [rows[start : start + self.chunk] for start in range(0, len(rows), self.chunk)]
        return np.concatenate([self.encode([self.inputs.open(int(row)) for row in part])[layer] for part in parts])

    def run(self, track: Track, limit: float) -> None:
        """Check what is stored; encode and write the other items chunk by chunk."""
        for chunk in track(self.chunks.rows, "checking stored features", len(self.chunks.rows)):
            for layer, span in chunk.spans.items():
                self.files[int(layer)].read(span)
        for file in self.files.values():
            file.cut(self.count * self.row_bytes)
        if 0 < self.end < len(self.inputs.keys):
            logger.info("%s: resuming after %d of %d images", self.inputs.name, self.end, len(self.inputs.keys))
        for end, items, errors in decode_chunks(self.inputs, self.end, self.chunk, track):
            spans = self.write(items, limit) if items and not self.dropped else {}
            self.end = end
            failures = tuple((row, error.source, error.reason) for row, error in errors)
            chunk = _Chunk(
                end=end, shape=self.shape, prefix=self.prefix, grid=self.grid, failures=failures, spans=spans
            )
            self.chunks.append(chunk)

    def encode(self, items: Sequence[Sequence[Image.Image]]) -> dict[int, np.ndarray]:
        """Return tokens (B, N, D) of opened items by layer; DataError unless all have the same number of images."""
        images = [image for item in items for image in item]
        encoded = self.encoder.encode_layers(images, self.layers, self.inputs.image_size)
        arrays: dict[int, np.ndarray] = {}
        for layer in list(encoded):
            tokens = encoded.pop(layer)  # freed one by one: of a large model they are most of the memory
            n, h, w, width = tokens.patches.shape
            joined = np.concatenate([tokens.prefix, tokens.patches.reshape(n, h * w, width)], axis=1)  # (B·F, N, D)
            if bad := sum(not np.isfinite(image).all() for image in joined):
                where = f"in {bad} of {len(joined)} vectors of {self.inputs.name}"
                raise ModelError(f"{self.encoder.name}, layer {layer}, gives NaN or infinity {where}; try float32")
            rows = len(items) if len({len(item) for item in items}) == 1 else 0
            if not rows or self.shape not in ((0, 0), (joined.size // (rows * width), width)):
                raise DataError(f"{self.inputs.name} mixes images and videos; give datasets of one kind")
            arrays[layer] = joined.reshape(rows, -1, width)
        self.prefix, self.grid = tokens.prefix.shape[1], (h, w)
        return arrays

    def write(self, items: Sequence[Sequence[Image.Image]], limit: float) -> dict[str, Span]:
        encoded = self.encode(items)
        if not self.count:
            self.shape = encoded[self.layers[0]].shape[1:]
            needed = self.row_bytes * len(self.inputs.keys) * len(self.layers)
            self.dropped = needed > limit
            if self.dropped:
                return {}
            free = shutil.disk_usage(self.store.path).free
            if needed + SPARE > free:
                raise OutputError(
                    f"{self.store.path} needs {(needed + SPARE) / 1e9:,.1f} GB for features and the disk has "
                    f"{free / 1e9:,.1f} GB; use fewer or smaller images, fewer layers, or another directory"
                )
        spans = {}
        for layer, file in self.files.items():
            values = encoded.pop(layer)
            largest = float(np.abs(values).max())
            if largest > float(np.finfo(self.dtype).max):
                reason = f"gives {largest:.3g} in layer {layer}, too large for {self.dtype}"
                raise ModelError(f"{self.encoder.name} {reason}; store features as float32")
            spans[str(layer)] = file.append(values.astype(self.dtype, copy=False))
        return spans
