"""Boxes and masks of objects by torchvision's Mask R-CNN over a pyramid of one frozen layer (section 3).

The region proposals and the box and mask heads are torchvision's; its inputs are features, so its resizing is not used.
Inside, a patch is 16 pixels wide whatever its size in the image, as in the paper, because torchvision expects strides
that are powers of two. Without masks to learn from it is Faster R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.datasets.instances import Instances, InstanceSet
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.feature_pyramid import SCALES, SimplePyramid
from perception_encoder.dense_prediction.detection.roi_heads import EPS, federate, learn_by_l1, vitdet_settings
from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, fit_head, take
from perception_encoder.errors import ConfigError, DataError, MissingExtraError
from perception_encoder.models.initialization import drawn_from
from perception_encoder.progress import Track, untracked

PATCH = 16
"""Pixels along a patch's side, inside."""
LIMITS = {False: (0.05, 100), True: (0.0001, 300)}
"""The least score, and the most detections of an image: as usual for COCO, and in detectron2 for LVIS."""


@dataclass(frozen=True, kw_only=True)
class DetectorHeadConfig:
    """The heads' size, and what they give; the defaults are torchvision's and the paper's (appendix B.3)."""

    channels: int = 256
    """Of the pyramid and of the mask head."""
    hidden: int = 1024
    """Width of the box head."""
    regions: int = 512
    """Of an image that the box head learns from; they take most of the time of fitting."""
    least_score: float | None = None
    """Detections below it are dropped; by default 0.05, in LVIS 0.0001."""
    most: int | None = None
    """Detections of an image; by default as many as count: 100, in LVIS 300."""
    federated: int | None = None
    """Classes that a batch is learned from, with sigmoids, for LVIS (50 in ViTDet); None: all, with a softmax."""
    vitdet: bool = False
    """ViTDet's deeper heads with layer norms, as the paper's; `hidden` is then that of one layer."""

    def __post_init__(self) -> None:
        if min(self.channels, self.hidden, self.regions, 1 if self.most is None else self.most) < 1:
            raise ConfigError("channels, hidden, regions and most must each be at least 1")

    def limits(self, lvis: bool) -> tuple[float, int]:
        """Return the least score and the most detections of an image, by this config or else by the kind of dataset."""
        score, most = LIMITS[lvis]
        return score if self.least_score is None else self.least_score, self.most or most


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(DetectorHeadConfig):
    """The heads, and how they are fitted to features."""

    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=15, batch=8, lr=1e-3, weight_decay=0.05))


class Detector(nn.Module):
    """Features (B, h, w, D) to losses, or to detections."""

    def __init__(self, width: int, classes: int, masks: bool, config: DetectorHeadConfig, lvis: bool = False) -> None:
        """`classes`: without the background; `lvis`: see `limits`. MissingExtraError without torchvision."""
        super().__init__()
        try:
            from torchvision.models.detection import FasterRCNN, MaskRCNN
        except ImportError:
            raise MissingExtraError("torchvision", "eval") from None
        self.masks, self.regions = masks, config.regions
        levels = [str(number) for number in range(len(SCALES))]
        least_score, most = config.limits(lvis)
        strides = [PATCH / scale for scale in (*SCALES, SCALES[-1] / 2)]
        make, eps = (vitdet_settings, EPS) if config.vitdet else (_usual_settings, 1e-5)
        settings = make(config.channels, config.hidden, classes, masks, levels, strides) | {
            "backbone": SimplePyramid(width, config.channels, eps),
            "box_batch_size_per_image": config.regions,
            "box_score_thresh": least_score,
            "box_detections_per_img": most,
        }
        self.model: Any = MaskRCNN(**settings) if masks else FasterRCNN(**settings)
        if config.vitdet:
            learn_by_l1(self.model)
        if config.federated is not None:
            federate(self.model.roi_heads, classes, config.federated)

    def forward(
        self,
        features: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        inside: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return detections, in pixels of 16 by 16 a patch, and in training the losses.

        `inside`: heights and widths, in these pixels, of images that do not fill their maps.
        """
        from torchvision.models.detection.image_list import ImageList

        size = _pixels(features)
        sizes: Any = [size] * len(features) if inside is None else list(inside)
        images = ImageList(features.new_zeros(1).expand(len(features), 3, *size), sizes)
        maps = self.model.backbone(features)
        proposals, proposing = self.model.rpn(images, maps, targets)
        detections, losses = self.model.roi_heads(maps, proposals, images.image_sizes, targets)
        return detections, {**proposing, **losses}

    @torch.no_grad()
    def detect(
        self, features: Tensor, sizes: Sequence[tuple[int, int]], inside: Sequence[tuple[float, float]] | None = None
    ) -> list[Detected]:
        """Detect objects in images that are stored with these heights and widths; `inside`: see `forward`."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        detections, _ = self(features, inside=inside)
        encoded = inside or [_pixels(features)] * len(sizes)
        results = []
        for each, own, (height, width) in zip(detections, encoded, sizes, strict=True):
            boxes = each["boxes"].float().cpu() * _scale(own, (height, width))
            masks = None
            if "masks" in each:
                pasted = paste_masks_in_image(each["masks"].float().cpu(), boxes, (height, width))[:, 0]
                masks = (pasted > 0.5).numpy()
            labels, scores = each["labels"].cpu().numpy(), each["scores"].float().cpu().numpy()
            results.append(Detected(boxes.numpy(), labels, scores, masks))
        return results


def _usual_settings(
    channels: int, hidden: int, classes: int, masks: bool, levels: Sequence[str], strides: Sequence[float]
) -> dict[str, Any]:
    """The arguments of torchvision's `MaskRCNN` that make its usual heads."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    settings: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(
            tuple((int(8 * stride),) for stride in strides), ((0.5, 1.0, 2.0),) * len(strides)
        ),
        "box_roi_pool": MultiScaleRoIAlign(list(levels), 7, 2),
        "box_head": TwoMLPHead(channels * 7**2, hidden),
        "box_predictor": FastRCNNPredictor(hidden, classes + 1),
    }
    if masks:
        settings["mask_roi_pool"] = MultiScaleRoIAlign(list(levels), 14, 2)
        settings["mask_head"] = MaskRCNNHeads(channels, (channels,) * 4, 1)
        settings["mask_predictor"] = MaskRCNNPredictor(channels, channels, classes + 1)
    return settings


def _pixels(features: Maps) -> tuple[int, int]:
    """Return height and width of images in the pixels that are used inside."""
    return features.shape[1] * PATCH, features.shape[2] * PATCH


def _scale(own: tuple[float, float], to: tuple[int, int]) -> Tensor:
    """Return the factors of boxes from images of one height and width to another, (4,)."""
    return torch.tensor([to[1] / own[1], to[0] / own[0]] * 2, dtype=torch.float32)


def fit_detector(
    features: Maps,
    images: InstanceSet,
    rows: np.ndarray,
    masks: bool = True,
    config: DetectionConfig | None = None,
    track: Track = untracked,
) -> Detector:
    """Fit a detector on features of images; `rows`: their indices in the dataset, (n,).

    `masks`: whether masks are learned if the dataset has them. A batch's targets are made when they are needed, for all
    masks of a large dataset would fill the memory. DataError if no image has an object.
    """
    config = config or DetectionConfig()
    masks, encoded = masks and images.has_masks, _pixels(features)

    def target(index: int) -> dict[str, Tensor]:
        row = int(rows[index])
        return _target(images.instances(row, masks), images.size(row), encoded)

    if not any(len(target(index)["labels"]) for index in range(len(features))):
        raise DataError("the training images show no object; a detector needs some to learn from")
    generator = torch.Generator().manual_seed(config.fit.seed)
    with drawn_from(generator):
        detector = Detector(features.shape[-1], len(images.categories), masks, config, images.lvis)
    detector.model.backbone.standardize.measure(features)

    def loss(batch: np.ndarray) -> Tensor:
        with drawn_from(generator):  # regions to learn from are sampled as well
            _, losses = detector(take(features, batch), [target(index) for index in batch])
        return torch.stack([each.float() for each in losses.values()]).sum()

    fit_head(detector, loss, len(features), config.fit, "fitting a detector", track)
    return detector


def _target(objects: Instances, stored: tuple[int, int], encoded: tuple[int, int]) -> dict[str, Tensor]:
    """Return an image's target at another size, masks uint8 (m, H, W), without objects thinner than half a pixel."""
    boxes = torch.from_numpy(objects.boxes) * _scale(stored, encoded)
    wide = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(dim=1)
    target = {"boxes": boxes[wide], "labels": torch.from_numpy(objects.labels)[wide]}
    if objects.masks is not None:
        masks = torch.from_numpy(objects.masks)[wide][:, None].float()
        resized = F.interpolate(masks, encoded, mode="nearest-exact") if len(masks) else masks.new_empty(0, 1, *encoded)
        target["masks"] = resized[:, 0].to(torch.uint8)
    return target
