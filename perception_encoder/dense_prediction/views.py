"""Detect in several views of an image, scaled or mirrored, and join the detections (test-time augmentation)."""

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

SOFT, PAPER_SOFT = 0.5, 0.4
"""Exponents of soft-NMS: the published scripts' default, and the one of the published 66.0 AP."""
OVERLAP = 0.7
"""Minimum IoU of two views' detections of the same object."""
PAPER_SIZE, PAPER_SIDES = 1792, (1792, 1728, 1536, 1344)
"""Longer sides of images in DETA's published script, in squares of 1824 with a margin of 32; also mirrored."""
PAPER_QUERIES = 2000
PAPER_LEAST = (0.0, 0.0, 64.0, 64.0)
"""For each longer side: detections must be larger than a square of this side, in stored pixels."""


@dataclass(frozen=True)
class Views:
    """Views of an image for a detector (test-time augmentation)."""

    scales: Sequence[float] = (1.0,)
    """Scales relative to the training size."""
    flip: bool = False
    """Also mirror each view."""
    soft: float | None = None
    """Multiply the scores of overlapping detections by (1 - IoU) to this power (soft-NMS) instead of dropping them."""
    least: Sequence[float] = ()
    """By scale: keep only detections larger than a square of this side, in stored pixels."""
    queries: int | None = None
    """Number of queries of a DETR; by default as in training."""

    @classmethod
    def paper(cls) -> Views:
        """Return the views of the paper's best result: four scales, mirrored, soft-NMS, 2,000 queries (B.3.5)."""
        scales = tuple(side / PAPER_SIZE for side in PAPER_SIDES)
        return cls(scales=scales, flip=True, soft=PAPER_SOFT, least=PAPER_LEAST, queries=PAPER_QUERIES)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales are {list(self.scales)}; at least one is needed, and all must be above 0")


def detect_objects(model: DenseModel, image: Image.Image, image_size: int, views: Views | None = None) -> Detected:
    """Detect objects in an image whose longer side is scaled to `image_size`, in one view or several.

    Only a single view has masks. Raises ConfigError for a head that is not a detector.
    """
    views = views or Views()
    head, inputs = model.head, model.backbone.inputs
    detect: Any
    if isinstance(head, DetrHead):
        detect = partial(head.detect, soft=views.soft, queries=views.queries)
    elif isinstance(head, Detector):
        detect = head.detect
    else:
        raise ConfigError(f"a {type(head).__name__} cannot detect objects")
    margin = 0 if inputs is None else inputs.margin
    results: list[Detected] = []
    for number, scale in enumerate(views.scales):
        side = max(1, round(scale * (image_size - margin))) + margin
        found = []
        for turned in (False, True)[: 1 + views.flip]:
            features = model.map_of(ImageOps.mirror(image) if turned else image, side)
            (view,) = detect(features, [(image.height, image.width)], model.valid_sizes(image.size, side))
            found.append(mirrored(view, image.width) if turned else view)
        results += [large(view, views.least[number]) for view in found] if views.least else found
    single = len(results) == 1 and views.soft is None
    return results[0] if single else join_views(results, OVERLAP, views.soft)
