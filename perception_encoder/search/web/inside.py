"""What the page shows of a model's inside: a picture's features at a layer, and what in it is like one place.

A video's moment is shown by the frame that stands for it. A picture goes through the model once, for all layers at
once; the maps of those looked at last are kept within a budget of memory.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from functools import partial

import numpy as np
from PIL import Image

from perception_encoder.inference.feature_map import FeatureMaps, feature_maps, similarity, to_colours
from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.search.web.library import Library

_BUDGET = 96 << 20  # bytes of maps that are kept; one picture's are kept anyway
_SHADE = 0.85  # opacity over what is least alike


class Inside:
    """The inside of a library's model; threads may share one.

    Its methods raise what `Library.media` raises, ConfigError for a layer that does not exist, and the InputError of a
    file that cannot be decoded.
    """

    def __init__(self, library: Library, budget: int = _BUDGET) -> None:
        self.library, self.budget = library, budget
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], FeatureMaps] = OrderedDict()

    def picture(self, id: str) -> bytes:
        """What the model is given: a JPEG."""
        return _file(self._maps(id).image, "JPEG")

    def colours(self, id: str, layer: int) -> bytes:
        """The features of a layer (0-based, negative from the end) as colours: a PNG of a pixel a patch."""
        return _file(Image.fromarray(to_colours(self._features(id, layer))), "PNG")

    def likeness(self, id: str, layer: int, x: float, y: float) -> bytes:
        """A shade for the picture, the darker the less a patch is like the one at (x, y): a PNG of a pixel a patch.

        `x`, `y`: 0–1 from the left and from the top.
        """
        features = self._features(id, layer)
        h, w = features.shape[:2]
        alike = similarity(features, min(int(y * h), h - 1), min(int(x * w), w - 1))
        least = alike.min()
        shade = _SHADE * (1 - alike) / max(1 - least, 1e-6)
        pixels = np.stack([np.zeros((h, w)), np.clip(255 * shade, 0, 255)], axis=-1)
        return _file(Image.fromarray(np.rint(pixels).astype(np.uint8)), "PNG")

    def _features(self, id: str, layer: int) -> np.ndarray:
        (number,) = self.library.encoder.visual.layer_indices([layer])  # before a picture is decoded for nothing
        return self._maps(id).layers[number]

    def _maps(self, id: str) -> FeatureMaps:
        media, path = self.library.media(id)
        status = path.stat()
        key = (path, media.start, status.st_mtime_ns, status.st_size)
        with self._lock:  # one pass at a time, so that no picture goes through twice
            if key not in self._kept:
                with self.library.budget.admission() as admit:
                    opened = open_media(media, admit=admit)
                    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
                    assert isinstance(image, Image.Image)  # rows are no texts
                    self._kept[key] = self.library.compute(partial(feature_maps, self.library.encoder, image))
                while len(self._kept) > 1 and sum(maps.nbytes for maps in self._kept.values()) > self.budget:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


def _file(image: Image.Image, format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, quality=90)
    return stream.getvalue()
