"""COCO's classes, as torchvision lists them: a published detector's file has their scores, and not their names."""

from __future__ import annotations

from perception_encoder.errors import MissingExtraError


def coco_classes() -> dict[int, str]:
    """Return the names of COCO's 80 classes by id, ascending; MissingExtraError without torchvision."""
    try:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    except ImportError:
        raise MissingExtraError("torchvision", "eval") from None
    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")}
