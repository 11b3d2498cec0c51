"""The depth of the page's images and moments, by a depth head and the encoder that it belongs to."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo, load_read_head, read_head_info
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.drawing import depth_colours
from perception_encoder.inference.open_model import open_model
from perception_encoder.models.registry import BUILTIN_DEPTH, canonical_name
from perception_encoder.search.web.image_results import ImageResults
from perception_encoder.search.web.library import MediaLibrary

_BUDGET = 64 << 20  # bytes of cached depth maps
_SIDE = 960  # pixels of an image's longer side on the page, at most


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """An image with its depth."""

    image: bytes
    """JPEG."""
    colours: bytes
    """PNG of the depth, near is bright."""
    metres: Float[np.ndarray, "H W"]
    """Up to a factor if `relative`."""
    relative: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of memory, about."""
        return len(self.image) + len(self.colours) + self.metres.nbytes

    def at(self, x: float, y: float) -> float:
        """Return the depth in metres at a point, 0–1 from the left and from the top."""
        height, width = self.metres.shape
        return float(self.metres[min(int(y * height), height - 1), min(int(x * width), width - 1)])


def head_name(head: Path | None) -> str:
    """Return the name of a depth head: the built-in one's, or its file's."""
    return "" if head is None else BUILTIN_DEPTH if head.stem == BUILTIN_DEPTH else head.name


class DepthMaps:
    """Estimates the depth of a library's images; threads may share one."""

    def __init__(self, library: MediaLibrary, head: Path) -> None:
        """`head`: a file that `pe train depth` wrote; it and its encoder (the one that it names, else the index's own)
        are loaded for the first image."""
        self._path, self._lock, self._source = head, threading.Lock(), library.index.settings["source"]
        self.name = head_name(head)
        self._model: tuple[DenseModel, HeadInfo] | None = None
        self._results: ImageResults[DepthMap] = ImageResults(library, _BUDGET)

    def map(self, row_id: str) -> DepthMap:
        """Return a row's depth.

        Raises what `ImageResults.get`, `read_head_info`, `load_read_head` and `open_model` raise.
        """
        return self._results.get(row_id, partial(_estimate, *self._load()))

    def _load(self) -> tuple[DenseModel, HeadInfo]:
        with self._lock:
            if self._model is None:
                info, tensors = read_head_info(self._path, "depth")
                known = canonical_name(info.encoder) is not None
                own = None if known else self._source  # a file may not name other models; the index's is trusted
                self._model = load_read_head(self._path, info, tensors, lambda name: open_model(name).tower(), own)
            return self._model


def _estimate(model: DenseModel, info: HeadInfo, image: Image.Image) -> DepthMap:
    assert isinstance(model.head, DepthHead)
    visible = image.convert("RGB")
    visible.thumbnail((_SIDE, _SIDE))
    features = model.map_of(image, info.image_size)
    metres = model.head.predict(features, (visible.height, visible.width))[0].cpu().numpy()
    jpeg, png = io.BytesIO(), io.BytesIO()
    visible.save(jpeg, "JPEG", quality=90)
    Image.fromarray(depth_colours(metres)).save(png, "PNG")
    return DepthMap(image=jpeg.getvalue(), colours=png.getvalue(), metres=metres, relative=info.relative)
