"""Detect in several views of an image, scaled or mirrored, and join what they show (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image, ImageOps

from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.detection.detections import Detected, join_views, large, mirrored
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.errors import ConfigError

MOST = 300
"""Detections of all views of an image together."""
OVERLAP = 0.7
"""IoU from which two views show the same object."""
PAPER_SIZE, PAPER_SIDES = 1792, (1792, 1728, 1536, 1344)
"""The published script for DETA: images of these longer sides, in squares of 1824 with a margin of 32, and mirrored."""
PAPER_QUERIES = 2000
PAPER_LEAST = (0.0, 0.0, 64.0, 64.0)
"""Of each of these views the objects of an area above such a square's count, in stored pixels."""


@dataclass(frozen=True)
class Views:
    """Which views of an image a detector sees."""

    scales: Sequence[float] = (1.0,)
    """Factors of the size that it was trained at."""
    flip: bool = False
    """Also each mirrored."""
    soft: bool = False
    """Lower the scores of doubles (soft-NMS), rather than drop them: among those of a view by a DETR, and of all."""
    least: Sequence[float] = ()
    """By scale: objects of an area above a square's of this side count, in stored pixels; by default all."""

    @classmethod
    def paper(cls) -> Views:
        """Return the views of the paper's best result: four scales, mirrored, and soft-NMS (appendix B.3.5)."""
        scales = tuple(side / PAPER_SIZE for side in PAPER_SIDES)
        return cls(scales=scales, flip=True, soft=True, least=PAPER_LEAST)

    def __post_init__(self) -> None:
        if len(self.least) not in (0, len(self.scales)):
            raise ConfigError(f"least has {len(self.least)} sides, and there are {len(self.scales)} scales")
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
    own = model.backbone.inputs.margin if model.backbone.inputs is not None else 0
    results: list[Detected] = []
    head: Any = partial(model.head.detect, soft=views.soft) if isinstance(model.head, DetrHead) else model.head.detect
    for number, scale in enumerate(views.scales):
        side = max(1, round(scale * (image_size - own))) + own
        inside = model.inside(image.size, side)
        found = head(model.map_of(image, side), size, inside)
        if views.flip:
            (turned,) = head(model.map_of(ImageOps.mirror(image), side), size, inside)
            found.append(mirrored(turned, image.width))
        results += [large(each, views.least[number]) for each in found] if views.least else found
    return results[0] if len(results) == 1 and not views.soft else join_views(results, OVERLAP, views.soft, MOST)
