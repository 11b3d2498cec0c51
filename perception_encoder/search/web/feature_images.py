"""Images of a model's features for the page: a layer's features as colours, the similarity of patches to one, and
regions that look like points.

A video's moment is shown by its frame. An image goes through the model once for all layers; the latest maps are cached
within a memory budget. A second model's last layer can be shown beside it, such as a Spatial model's beside Core's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.dense_prediction.drawing import overlay_png
from perception_encoder.dense_prediction.regions import label_regions
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.feature_map import FeatureMaps, feature_maps, similarity, to_colours
from perception_encoder.search.web.image_results import ImageResults
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
        self.library, self._baseline_name = library, baseline
        self._results: ImageResults[FeatureMaps] = ImageResults(library, budget)

    def image(self, row_id: str) -> bytes:
        """Return the model's input: a JPEG."""
        return _to_bytes(self._maps(row_id).image, "JPEG")

    def colours(self, row_id: str, layer: int, baseline: bool = False) -> bytes:
        """Return the features of a layer (0-based, negative from the end) as colours: a PNG with a pixel per patch.

        `baseline`: of the second model.
        """
        return _to_bytes(Image.fromarray(to_colours(self.features(row_id, layer, baseline))), "PNG")

    def shade(self, row_id: str, layer: int, x: float, y: float, baseline: bool = False) -> bytes:
        """Return a shade, darker over patches less similar to the one at (x, y): a PNG with a pixel per patch.

        `x`, `y`: 0–1 from the left and from the top. `baseline`: by the second model.
        """
        features = self.features(row_id, layer, baseline)
        h, w = features.shape[:2]
        similarities = similarity(features, min(int(y * h), h - 1), min(int(x * w), w - 1))
        shade = _SHADE * (1 - similarities) / max(1 - similarities.min(), 1e-6)
        pixels = np.stack([np.zeros((h, w)), np.clip(255 * shade, 0, 255)], axis=-1)
        return _to_bytes(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")

    def regions(self, row_id: str, layer: int, points: Sequence[tuple[float, float]]) -> bytes:
        """Return what looks like each point (x, y, 0–1) in its colour, a later one on top: a PNG over the image."""
        features, size = self.features(row_id, layer), self._maps(row_id).image.size
        return overlay_png(self.library.compute(partial(label_regions, features, points, size)))

    def features(self, row_id: str, layer: int, baseline: bool = False) -> Float[np.ndarray, "h w D"]:
        """Return the features of a layer; `baseline`: of the second model."""
        encoder = self._encoder(baseline)
        (number,) = encoder.visual.layer_indices([layer])  # before an image is decoded for nothing
        return self._maps(row_id, encoder).layers[number]

    def model(self, baseline: bool = False) -> str:
        """Return the name of the model, or of the second one."""
        return self._encoder(baseline).name

    def _encoder(self, baseline: bool) -> Encoder:
        return self._baseline if baseline else self.library.encoder

    @cached_property
    def _baseline(self) -> Encoder:
        if not self._baseline_name:
            raise ConfigError("this server shows no second model; start it with --features-model")
        return load(self._baseline_name)

    def _maps(self, row_id: str, encoder: Encoder | None = None) -> FeatureMaps:
        encoder = encoder or self.library.encoder
        own = encoder is self.library.encoder
        layers = None if own else [-1]
        return self._results.get(row_id, lambda image: feature_maps(encoder, image, layers), variant=own)


def _to_bytes(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, quality=90)
    return stream.getvalue()
