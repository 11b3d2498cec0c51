"""All layers' features of a set of pictures, on disk: written in one pass, read a layer at a time through a mapping.

A set has a folder of its own, named by a digest of all that its features depend on: weights, types, size, layers and
the pictures' content. In it an array a layer, and `progress.json`, which says how many rows are whole. It is written
after the rows are on the disk, so a run that was killed goes on behind the last whole chunk, and ends with the same
bytes, for where a chunk ends hangs on the model, the size and the layers alone. How large chunks are is not kept: a set
that was begun in others is gone on with where it is, and what is added may then differ from one pass by rounding. A
picture that cannot be decoded has no row, and is kept as a failure.
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
from perception_encoder.files import holding, replacing, writing
from perception_encoder.inference.layer_encoder import StoredEncoder
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

DTYPES = ("float16", "float32")
CHUNK = 64
"""Pictures at most between two notes of progress."""
BYTES = 2_000_000_000
"""Of all layers' float32 features that are in memory between two notes, unless one picture's are more."""
SPARE = 256 << 20  # bytes of disk that are left to others
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Where features are kept, and how."""

    folder: Path
    dtype: str = "float16"
    """"float16", or "float32" for twice the space; a value beyond float16 is an error, not infinity."""
    chunk: int = CHUNK
    """Pictures at most between two notes of progress: see `chunk_size`."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"features are kept as {' or '.join(DTYPES)}, not as {self.dtype!r}")


@dataclass
class _Progress:
    """What a set's folder holds so far."""

    seen: int = 0
    """Pictures that were looked at, those that cannot be decoded among them."""
    prefix: int = 0
    grid: list[int] = field(default_factory=list)
    width: int = 0
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """Place, name and reason of each picture that cannot be decoded."""

    @property
    def rows(self) -> int:
        return self.seen - len(self.failures)


class StoredLayers:
    """The features of a set of pictures that is whole."""

    def __init__(self, folder: Path, progress: _Progress, layers: Sequence[int], patch_size: int) -> None:
        self.folder, self.layers, self.patch_size, self._progress = folder, tuple(layers), patch_size, progress

    @property
    def key(self) -> str:
        """The digest of all that the features depend on."""
        return self.folder.name

    @property
    def failures(self) -> tuple[InputError, ...]:
        """The pictures that could not be decoded."""
        return tuple(MediaDecodeError(name, reason) for _, name, reason in self._progress.failures)

    def read(self, layer: int) -> LayerFeatures:
        """One layer, mapped; DataError where its file is damaged."""
        progress = self._progress
        lost = [place for place, _, _ in progress.failures]
        path = self.folder / _file_name(layer)
        return LayerFeatures(
            layer=layer,
            tokens=_open(path, "r")[: progress.rows] if progress.rows else np.empty((0, 1, 1), np.float32),
            prefix=progress.prefix,
            grid=(progress.grid[0], progress.grid[1]) if progress.rows else (1, 1),
            patch_size=self.patch_size,
            rows=np.delete(np.arange(progress.seen), lost),
            failures=self.failures,
        )


def extract(
    encoder: StoredEncoder,
    pictures: LayerImages,
    layers: Sequence[int],
    config: StoreConfig,
    track: Track = untracked,
) -> StoredLayers:
    """Encode pictures at several layers in one pass, or go on with it, or find that it was done.

    Raises DataError where there are none, ModelError where a feature is not finite or too large for float16,
    OutputError where the disk has no room or another run is at it.
    """
    if not pictures.keys:
        raise DataError(f"{pictures.name}: there are no pictures")
    folder = config.folder / feature_key(encoder, pictures, layers, config)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / "lock", f"{folder} is being written by another run; wait for it, or take another store"):
        progress = _read_progress(folder)
        if progress.seen < len(pictures.keys):
            _extend(encoder, pictures, layers, config, folder, progress, track)
    return StoredLayers(folder, progress, layers, encoder.patch_size)


def feature_key(encoder: StoredEncoder, pictures: LayerImages, layers: Sequence[int], config: StoreConfig) -> str:
    """A digest of all that features depend on; the encoder's and the pictures' names are no part of it."""
    depends = {
        "version": VERSION,
        "encoder": dict(encoder.about),
        "layers": list(layers),
        "depth": encoder.depth,
        "size": list(pictures.image_size or encoder.image_size),
        "kept as": config.dtype,
        "pictures": pictures.digest,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]


def chunk_size(encoder: StoredEncoder, image_size: tuple[int, int], layers: Sequence[int], most: int = CHUNK) -> int:
    """Pictures between two notes of progress: as many as `BYTES` hold, at most so many, and at least one."""
    height, width = image_size
    patches = height * width // encoder.patch_size**2
    return max(1, min(most, BYTES // (4 * patches * encoder.width * len(layers))))


def _extend(
    encoder: StoredEncoder,
    pictures: LayerImages,
    layers: Sequence[int],
    config: StoreConfig,
    folder: Path,
    progress: _Progress,
    track: Track,
) -> None:
    """Encode what is missing, chunk by chunk."""
    count = len(pictures.keys)
    if progress.seen:
        logger.info("%s: going on after %d of %d pictures", pictures.name, progress.seen, count)
    arrays: dict[int, np.memmap] = {}
    chunk = chunk_size(encoder, pictures.image_size or encoder.image_size, layers, config.chunk)
    places = range(progress.seen, count)
    decoded = decode_ahead(pictures.open, places, chunk)
    images: list[Image.Image] = []
    failures: list[tuple[int, str, str]] = []
    for place, found in track(zip(places, decoded, strict=True), f"encoding {pictures.name}", len(places)):
        if isinstance(found, InputError):
            failures.append((place, found.source, found.reason))
        else:
            images.extend(found)
        if (place + 1) % chunk and place + 1 < count:
            continue
        if images:
            tokens = _encode(encoder, images, layers, config, pictures, progress)
            arrays = arrays or _open_all(folder, layers, count, config, progress)
            for layer, values in tokens.items():
                arrays[layer][progress.rows : progress.rows + len(images)] = values
                arrays[layer].flush()
        progress.seen = place + 1
        progress.failures += failures
        _write_progress(folder, progress)
        images, failures = [], []


def _encode(
    encoder: StoredEncoder,
    images: list[Image.Image],
    layers: Sequence[int],
    config: StoreConfig,
    pictures: LayerImages,
    progress: _Progress,
) -> dict[int, np.ndarray]:
    """Tokens (n, N, D) by layer in the store's type; notes their prefix, grid and width in `progress`."""
    joined = {}
    found = encoder.encode_layers(images, layers, pictures.image_size)
    for layer in list(found):
        tokens = found.pop(layer)  # freed one by one, as float32 is twice what is kept
        n, h, w, width = tokens.patches.shape
        values = np.concatenate([tokens.prefix, tokens.patches.reshape(n, h * w, width)], axis=1)
        largest = float(np.abs(values).max())  # NaN where one is
        if not np.isfinite(largest):
            raise ModelError(f"{encoder.name} gives NaN or infinity at layer {layer}, for pictures of {pictures.name}")
        if largest > float(np.finfo(config.dtype).max):
            reason = f"gives {largest:.3g} at layer {layer}, too large for {config.dtype}"
            raise ModelError(f"{encoder.name} {reason}; keep features as float32")
        joined[layer] = values.astype(config.dtype)
        progress.prefix, progress.grid, progress.width = tokens.prefix.shape[1], [h, w], width
    return joined


def missing_bytes(
    encoder: StoredEncoder, shown: Sequence[LayerImages], layers: Sequence[int], config: StoreConfig
) -> int:
    """How much the features of sets of pictures will add to the store; one picture is encoded to know their shape."""
    tokens = encoder.encode_layers([Image.new("RGB", (32, 32))], layers[:1])[layers[0]]
    prefix, width = tokens.prefix.shape[1], tokens.patches.shape[-1]
    total = 0
    for key, pictures in {feature_key(encoder, each, layers, config): each for each in shown}.items():
        h, w = (side // encoder.patch_size for side in pictures.image_size or encoder.image_size)
        missing = [layer for layer in layers if not (config.folder / key / _file_name(layer)).is_file()]
        total += len(missing) * len(pictures.keys) * (prefix + h * w) * width * np.dtype(config.dtype).itemsize
    return total


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError where the disk of a folder, which need not exist, has no room for so many bytes."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if needed + SPARE > free:
        raise OutputError(
            f"{folder} needs {show_bytes(needed)} for features and the disk has {show_bytes(free)}; take fewer or "
            f"smaller pictures, fewer layers, or another place"
        )


def show_bytes(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _open_all(
    folder: Path, layers: Sequence[int], count: int, config: StoreConfig, progress: _Progress
) -> dict[int, np.memmap]:
    """The layers' arrays, made where they are not there; OutputError where the disk has no room for them."""
    height, width = progress.grid
    shape = (count, progress.prefix + height * width, progress.width)
    missing = [layer for layer in layers if not (folder / _file_name(layer)).is_file()]
    check_space(folder, len(missing) * int(np.prod(shape)) * np.dtype(config.dtype).itemsize)
    arrays = {}
    with writing(folder):
        for layer in layers:
            path = folder / _file_name(layer)
            if layer in missing:
                with replacing(path) as temporary:
                    np.lib.format.open_memmap(temporary, "w+", config.dtype, shape).flush()
            arrays[layer] = _open(path, "r+")
    return arrays


def _file_name(layer: int) -> str:
    return f"layer_{layer:02d}.npy"


def _open(path: Path, mode: Literal["r", "r+"]) -> np.memmap:
    try:
        return cast(np.memmap, np.load(path, mmap_mode=mode))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); delete its folder, and it is made anew") from None


def _read_progress(folder: Path) -> _Progress:
    path = folder / "progress.json"
    if not path.is_file():
        return _Progress()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return _Progress(**{**said, "failures": [(int(n), str(name), str(why)) for n, name, why in said["failures"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); delete its folder, and it is made anew") from None


def _write_progress(folder: Path, progress: _Progress) -> None:
    path = folder / "progress.json"
    with writing(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(progress)), encoding="utf-8")
