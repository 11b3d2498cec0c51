"""Images of a model's features for the page: a layer's features as colours, and the similarity of patches to one.

A video's moment is shown by its frame. An image goes through the model once for all layers; the latest maps are cached
within a memory budget. A second model's last layer can be shown beside it, such as a Spatial model's beside Core's.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import cached_property, partial

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.feature_map import FeatureMaps, feature_maps, similarity, to_colours
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.search.web.library import MediaLibrary

_BUDGET = 96 << 20  # bytes of cached maps; one image's are always cached
_SHADE = 0.85  # opacity over the least similar patch


class FeatureImages:
    """Draws the features of a library's images; threads may share one.

    Its methods raise what `MediaLibrary.media` raises, ConfigError for a layer that does not exist, and the InputError
    of a file that cannot be decoded.
    """

    def __init__(self, library: MediaLibrary, budget: int = _BUDGET, baseline: str = "") -> None:
        """`baseline`: name or path of the second model, which is loaded when it is first shown."""
        self.library, self.budget, self._baseline_name = library, budget, baseline
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[object, ...], FeatureMaps] = OrderedDict()

    def image(self, row_id: str) -> bytes:
        """Return the model's input: a JPEG."""
        return _to_bytes(self._maps(row_id).image, "JPEG")

    def colours(self, row_id: str, layer: int, baseline: bool = False) -> bytes:
        """Return the features of a layer (0-based, negative from the end) as colours: a PNG with a pixel per patch.

        `baseline`: of the second model.
        """
        return _to_bytes(Image.fromarray(to_colours(self._features(row_id, layer, baseline))), "PNG")

    def shade(self, row_id: str, layer: int, x: float, y: float, baseline: bool = False) -> bytes:
        """Return a shade, darker over patches less similar to the one at (x, y): a PNG with a pixel per patch.

        `x`, `y`: 0–1 from the left and from the top. `baseline`: by the second model.
        """
        features = self._features(row_id, layer, baseline)
        h, w = features.shape[:2]
        similarities = similarity(features, min(int(y * h), h - 1), min(int(x * w), w - 1))
        shade = _SHADE * (1 - similarities) / max(1 - similarities.min(), 1e-6)
        pixels = np.stack([np.zeros((h, w)), np.clip(255 * shade, 0, 255)], axis=-1)
        return _to_bytes(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")

    @cached_property
    def _baseline(self) -> Encoder:
        if not self._baseline_name:
            raise ConfigError("this server shows no second model; start it with --features-model")
        return load(self._baseline_name)

    def _features(self, row_id: str, layer: int, baseline: bool) -> np.ndarray:
        encoder = self._baseline if baseline else self.library.encoder
        (number,) = encoder.visual.layer_indices([layer])  # before an image is decoded for nothing
        return self._maps(row_id, encoder).layers[number]

    def _maps(self, row_id: str, encoder: Encoder | None = None) -> FeatureMaps:
        encoder = encoder or self.library.encoder
        media, path = self.library.media(row_id)
        status = path.stat()
        key = (path, media.start, status.st_mtime_ns, status.st_size, encoder is self.library.encoder)
        layers = None if encoder is self.library.encoder else [-1]
        with self._lock:  # one pass at a time, so that no image goes through twice
            if key not in self._cache:
                with self.library.budget.admission() as admit:
                    opened = open_media(media, admit=admit)
                    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
                    assert isinstance(image, Image.Image)  # rows are not texts
                    self._cache[key] = self.library.compute(partial(feature_maps, encoder, image, layers))
                while len(self._cache) > 1 and sum(maps.nbytes for maps in self._cache.values()) > self.budget:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]


def _to_bytes(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, quality=90)
    return stream.getvalue()
