"""Compute features as colours, regions that resemble points, and depth for the page's images and moments.

An image goes through a model once for all layers; the latest results are cached within a memory budget.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.files import file_state
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load, load_tower
from perception_encoder.inference.media import open_media
from perception_encoder.models.registry import BUILTIN_DEPTH, canonical_name
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.search.web.library import MediaLibrary

if TYPE_CHECKING:
    from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
    from perception_encoder.inference.feature_map import FeatureMaps

_MAPS_BUDGET = 96 << 20  # bytes of cached maps; one image's are always cached
_DEPTH_BUDGET = 64 << 20  # bytes of cached depth maps
_SIDE = 960  # pixels of an image's longer side on the page, at most
_SHADE = 0.85  # opacity over the least similar patch


V = TypeVar("V", bound="FeatureMaps | DepthMap")


class ImageResults(Generic[V]):
    """Results for a library's images, and for the frames of its moments; threads may share one."""

    def __init__(self, library: MediaLibrary, budget: int) -> None:
        """`budget`: maximum bytes of cached results; at least one image's are cached."""
        self._library, self._budget, self._lock = library, budget, threading.Lock()
        self._cache: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, row_id: str, compute: Callable[[Image.Image], V], variant: Hashable = None) -> V:
        """Return a row's result: from the cache if the file is unchanged, else from `compute`.

        `variant`: distinguishes the results of several functions. Raises what `MediaLibrary.media` and `compute` raise,
        and the InputError of a file that cannot be decoded.
        """
        media, path = self._library.media(row_id)
        key = (file_state(path), media.start, variant)
        with self._lock:  # one at a time, so that nothing is computed twice
            if key not in self._cache:
                with DECODING.admission() as admit:
                    opened = open_media(media, admit=admit)
                    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
                    assert isinstance(image, Image.Image)  # rows are not texts
                    self._cache[key] = self._library.compute(partial(compute, image))
                while len(self._cache) > 1 and sum(result.nbytes for result in self._cache.values()) > self._budget:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]


class FeatureImages:
    """Draws the features of a library's images; threads may share one.

    Its methods raise what `MediaLibrary.media` raises, ConfigError for a layer that does not exist, and the InputError
    of a file that cannot be decoded.
    """

    def __init__(self, library: MediaLibrary, budget: int = _MAPS_BUDGET, baseline: str = "") -> None:
        """`baseline`: name or path of the second model, which is loaded when first shown."""
        self.library, self._baseline_name = library, baseline
        self._results: ImageResults[FeatureMaps] = ImageResults(library, budget)

    def image(self, row_id: str) -> bytes:
        """Return the model's input: a JPEG."""
        return _to_bytes(self._maps(row_id).image, "JPEG")

    def colours(self, row_id: str, layer: int, baseline: bool = False) -> bytes:
        """Return the features of a layer (0-based, negative from the end) as colours: a PNG with a pixel per patch.

        `baseline`: of the second model.
        """
        from perception_encoder.inference.feature_map import to_colours

        return _to_bytes(Image.fromarray(to_colours(self.features(row_id, layer, baseline))), "PNG")

    def shade(self, row_id: str, layer: int, x: float, y: float, baseline: bool = False) -> bytes:
        """Return a shade that is darker over patches less similar to the one at (x, y): a PNG with a pixel per patch.

        `x`, `y`: 0–1 from the left and from the top. `baseline`: by the second model.
        """
        from perception_encoder.inference.feature_map import similarity

        features = self.features(row_id, layer, baseline)
        h, w = features.shape[:2]
        similarities = similarity(features, min(int(y * h), h - 1), min(int(x * w), w - 1))
        shade = _SHADE * (1 - similarities) / max(1 - similarities.min(), 1e-6)
        pixels = np.stack([np.zeros((h, w)), np.clip(255 * shade, 0, 255)], axis=-1)
        return _to_bytes(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")

    def regions(self, row_id: str, layer: int, points: Sequence[tuple[float, float]]) -> bytes:
        """Return the regions that resemble the points (x, y, 0–1), each in a colour, later ones on top: a PNG."""
        from perception_encoder.dense_prediction.drawing import overlay_png
        from perception_encoder.dense_prediction.regions import label_regions

        features, size = self.features(row_id, layer), self._maps(row_id).image.size
        return overlay_png(self.library.compute(partial(label_regions, features, points, size)))

    def features(self, row_id: str, layer: int, baseline: bool = False) -> Float[np.ndarray, "h w D"]:
        """Return the features of a layer; `baseline`: of the second model."""
        (number,) = self._encoder(baseline).visual.layer_indices([layer])  # before an image is decoded in vain
        return self._maps(row_id, baseline).layers[number]

    def _encoder(self, baseline: bool) -> Encoder:
        from perception_encoder.models.checkpoints.weights import Model

        encoder = self._baseline if baseline else self.library.encoder
        if not isinstance(encoder.model, Model):
            raise ConfigError(f"features are shown for Perception Encoder models only; this index is of {encoder.name}")
        return encoder

    @cached_property
    def _baseline(self) -> Encoder:
        if not self._baseline_name:
            raise ConfigError("this server shows no second model; start it with --features-model")
        return load(self._baseline_name)

    def _maps(self, row_id: str, baseline: bool = False) -> FeatureMaps:
        from perception_encoder.inference.feature_map import feature_maps

        encoder, layers = self._encoder(baseline), [-1] if baseline else None
        return self._results.get(row_id, lambda image: feature_maps(encoder, image, layers), variant=baseline)


def _to_bytes(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, quality=90)
    return stream.getvalue()


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """An image with its depth."""

    image: bytes
    """JPEG."""
    colours: bytes
    """PNG of the depth; near is bright."""
    metres: Float[np.ndarray, "H W"]
    """In metres, or in unknown units if `relative`."""
    relative: bool = False

    @property
    def nbytes(self) -> int:
        """Approximate bytes of memory."""
        return len(self.image) + len(self.colours) + self.metres.nbytes

    def at(self, x: float, y: float) -> float:
        """Return the depth in metres at a point, 0–1 from the left and the top."""
        height, width = self.metres.shape
        return float(self.metres[min(int(y * height), height - 1), min(int(x * width), width - 1)])


def head_name(head: Path | None) -> str:
    """Return the name of a depth head: the built-in one, or its file."""
    return "" if head is None else BUILTIN_DEPTH if head.stem == BUILTIN_DEPTH else head.name


class DepthMaps:
    """Estimates the depth of a library's images; threads may share one."""

    def __init__(self, library: MediaLibrary, head: Path) -> None:
        """`head`: a file of `pe train depth`, loaded for the first image with its own encoder or the index's."""
        self._path, self._lock, self._source = head, threading.Lock(), library.encoder.source
        self._model: tuple[DenseModel, HeadInfo] | None = None
        self._results: ImageResults[DepthMap] = ImageResults(library, _DEPTH_BUDGET)

    def map(self, row_id: str) -> DepthMap:
        """Return a row's depth.

        Raises what `ImageResults.get`, `read_head_info`, `load_read_head` and `load_tower` raise.
        """
        return self._results.get(row_id, partial(_estimate, *self._load()))

    def _load(self) -> tuple[DenseModel, HeadInfo]:
        from perception_encoder.dense_prediction.dense_model import load_read_head, read_head_info

        with self._lock:
            if self._model is None:
                info, tensors = read_head_info(self._path, "depth")
                known = canonical_name(info.encoder) is not None
                trusted = None if known else self._source  # a head may name published models only
                self._model = load_read_head(self._path, info, tensors, load_tower, trusted)
            return self._model


def _estimate(model: DenseModel, info: HeadInfo, image: Image.Image) -> DepthMap:
    from perception_encoder.dense_prediction.depth import DepthHead
    from perception_encoder.dense_prediction.drawing import depth_colours

    assert isinstance(model.head, DepthHead)
    visible = image.convert("RGB")
    visible.thumbnail((_SIDE, _SIDE))
    features = model.map_of(image, info.image_size)
    metres = model.head.predict(features, (visible.height, visible.width))[0].cpu().numpy()
    colours = _to_bytes(Image.fromarray(depth_colours(metres)), "PNG")
    return DepthMap(image=_to_bytes(visible, "JPEG"), colours=colours, metres=metres, relative=info.relative)
