"""Detect in several views of an image, scaled or mirrored, and join what they show (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detected, Detector
from perception_encoder.dense_prediction.detection.suppression import join_views, mirrored
from perception_encoder.errors import ConfigError

MOST = 300
"""Detections of all views of an image together."""
OVERLAP = 0.6
"""IoU from which two views show the same object."""


@dataclass(frozen=True)
class Views:
    """Which views of an image a detector sees."""

    scales: Sequence[float] = (1.0,)
    """Factors of the size that it was trained at."""
    flip: bool = False
    """Also each mirrored."""
    soft: bool = False
    """Lower the scores of doubles (soft-NMS), rather than drop them."""

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales are {list(self.scales)}; at least one is needed, and all must be above 0")


def detect_objects(model: DenseModel, image: Image.Image, image_size: int, views: Views | None = None) -> Detected:
    """Detect objects in an image whose longer side is scaled to `image_size`, in one view or several.

    Masks are those of a single view; several have boxes alone. ConfigError for a head that is not a detector.
    """
    views = views or Views()
    if not isinstance(model.head, Detector | DetrHead):
        raise ConfigError(f"a head of the kind {type(model.head).__name__} does not detect")
    size = [(image.height, image.width)]
    results = []
    for scale in views.scales:
        side = max(1, round(scale * image_size))
        inside = model.inside(image.size, side)
        results += model.head.detect(model.map_of(image, side), size, inside)
        if views.flip:
            (turned,) = model.head.detect(model.map_of(ImageOps.mirror(image), side), size, inside)
            results.append(mirrored(turned, image.width))
    return results[0] if len(results) == 1 and not views.soft else join_views(results, OVERLAP, views.soft, MOST)
