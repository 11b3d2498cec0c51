"""Draw the features of the page's images and moments: as colours, and as a shade by their similarity to a patch.

An image goes through a model once for all layers; the latest features are cached within a memory budget.
"""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.files import file_state
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.media import open_media
from perception_encoder.search_page.library import MediaLibrary

if TYPE_CHECKING:
    from fastapi import Request, Response

    from perception_encoder.inference.feature_map import FeatureMaps

Get = Callable[[str, Callable[["Request"], Any]], None]
"""Adds a route that computes its answer in a thread."""
_BUDGET = 96 << 20  # bytes of cached features; one image's are always cached
_SHADE = 0.85  # opacity over the least similar patch
_CACHED = {"Cache-Control": "private, max-age=300"}
_LAYER = re.compile(r"-?\d{1,4}", re.ASCII)
_POINT = re.compile(r"(0(?:\.\d{1,6})?|1),(0(?:\.\d{1,6})?|1)", re.ASCII)


class FeatureImages:
    """Draws the features of a library's images, and of the frames of its moments; threads may share one.

    Its methods raise what `MediaLibrary.media` raises, ConfigError for a layer that does not exist, and the InputError
    of a file that cannot be decoded.
    """

    def __init__(self, library: MediaLibrary, budget: int = _BUDGET, baseline: str = "") -> None:
        """`budget`: maximum bytes of cached features; `baseline`: the second model, loaded when first shown."""
        self._library, self._budget, self._baseline_name = library, budget, baseline
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, float | None, bool], FeatureMaps] = OrderedDict()

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

        Args:
            x, y: 0–1 from the left and from the top.
            baseline: By the second model.
        """
        from perception_encoder.inference.feature_map import similarity

        features = self.features(row_id, layer, baseline)
        h, w = features.shape[:2]
        similarities = similarity(features, min(int(y * h), h - 1), min(int(x * w), w - 1))
        shade = _SHADE * (1 - similarities) / max(1 - similarities.min(), 1e-6)
        pixels = np.stack([np.zeros((h, w)), np.clip(255 * shade, 0, 255)], axis=-1)
        return _to_bytes(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")

    def features(self, row_id: str, layer: int, baseline: bool = False) -> Float[np.ndarray, "h w D"]:
        """Return the features of a layer; `baseline`: of the second model."""
        (number,) = self._encoder(baseline).visual.layer_indices([layer])  # before an image is decoded in vain
        return self._maps(row_id, baseline).layers[number]

    def _encoder(self, baseline: bool) -> Encoder:
        from perception_encoder.models.checkpoints.weights import Model

        encoder = self._baseline if baseline else self._library.encoder
        if not isinstance(encoder.model, Model):
            raise ConfigError(f"features are shown for Perception Encoder models only; this index is of {encoder.name}")
        return encoder

    @cached_property
    def _baseline(self) -> Encoder:
        if not self._baseline_name:
            raise ConfigError("this server shows no second model; start it with --features-model")
        return load(self._baseline_name)

    def _maps(self, row_id: str, baseline: bool = False) -> FeatureMaps:
        """Return a row's features: from the cache if the file is unchanged."""
        from perception_encoder.inference.feature_map import feature_maps

        encoder, layers = self._encoder(baseline), [-1] if baseline else None
        media, path = self._library.media(row_id)
        key = (file_state(path), media.start, baseline)
        with self._lock:  # one at a time, so that nothing is computed twice
            if key not in self._cache:
                with DECODING.admission() as admit:
                    opened = open_media(media, admit=admit)
                    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
                    assert isinstance(image, Image.Image)  # rows are not texts
                    self._cache[key] = self._library.compute(partial(feature_maps, encoder, image, layers))
                while len(self._cache) > 1 and sum(maps.nbytes for maps in self._cache.values()) > self._budget:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]


def _to_bytes(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, quality=90)
    return stream.getvalue()


def add_feature_route(get: Get, features: FeatureImages) -> None:
    """Add `/api/inside/ID`: the model's input; with `layer=N` the layer's features as colours; with `at=X,Y` too, a
    shade over patches unlike the one at that point (0–1 from the left and from the top). `baseline=1` and the layer -1:
    of the second model."""
    from fastapi.responses import Response

    def look(request: Request) -> Response:
        row_id, params = request.path_params["id"], request.query_params
        if "layer" not in params:
            return Response(features.image(row_id), media_type="image/jpeg", headers=_CACHED)
        layer = int(_checked(params["layer"], _LAYER, "layer", "a number such as 5")[0])
        baseline = params.get("baseline") == "1"
        if baseline and layer != -1:
            raise ConfigError(f"layer is {layer}; the second model only has the last layer, -1")
        if "at" in params:
            point = _checked(params["at"], _POINT, "at", "two numbers from 0 to 1 such as 0.25,0.5")
            drawn = features.shade(row_id, layer, float(point[1]), float(point[2]), baseline)
        else:
            drawn = features.colours(row_id, layer, baseline)
        return Response(drawn, media_type="image/png", headers=_CACHED)

    get("/api/inside/{id}", look)


def _checked(value: str, pattern: re.Pattern[str], name: str, allowed: str) -> re.Match[str]:
    match = pattern.fullmatch(value)
    if match is None:
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}")
    return match
