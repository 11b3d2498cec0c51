"""Detect objects with torchvision's Mask R-CNN over a pyramid of one layer (section 3); without masks, Faster R-CNN.

Its inputs are features, so torchvision's resizing is not used. The head works in its own pixels, 16 along a patch's
side whatever the patch size, as in the paper: torchvision expects strides that are powers of two.
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
from perception_encoder.dense_prediction.detection.roi_heads import EPS, SCALES, SimplePyramid, customize, head_settings
from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, fit_head, take
from perception_encoder.errors import DataError, needs_extra
from perception_encoder.models.initialization import drawn_from
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count, Share

PATCH = 16  # side of a patch in the head's pixels
LIMITS = {False: (0.05, 100), True: (0.0001, 300)}
"""Minimum score and maximum number of detections per image, for COCO and for LVIS (as in detectron2)."""


@dataclass(frozen=True, kw_only=True)
class DetectorHeadConfig(Checked):
    """Size of the heads and limits of their detections; defaults are torchvision's and the paper's (B.3)."""

    channels: Count = 256
    """Channels of the pyramid and of the mask head."""
    hidden: Count = 1024
    """Width of the box head."""
    regions: Count = 512
    """Regions per image to train the box head on; they take most of the training time."""
    least_score: Share | None = None
    """Minimum score of a detection; by default 0.05, for LVIS 0.0001."""
    most: Count | None = None
    """Maximum number of detections per image; by default the evaluated number: 100, for LVIS 300."""
    federated: Count | None = None
    """For LVIS: number of classes with a loss in a batch, by sigmoids (50 in ViTDet); None: all, by a softmax."""
    vitdet: bool = False
    """Use ViTDet's deeper heads with layer norms, as in the paper; `hidden` is then the width of one layer."""

    def limits(self, lvis: bool) -> tuple[float, int]:
        """Return the minimum score and the maximum number of detections, by this config or the dataset's kind."""
        score, most = LIMITS[lvis]
        return score if self.least_score is None else self.least_score, self.most or most


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(DetectorHeadConfig):
    """The heads, and how they are fitted to features."""

    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=15, batch=8, lr=1e-3, weight_decay=0.05))


class Detector(nn.Module):
    """Features (B, h, w, D) to losses or detections."""

    def __init__(self, width: int, classes: int, masks: bool, config: DetectorHeadConfig, lvis: bool = False) -> None:
        """`classes`: without the background; `lvis`: see `limits`. MissingExtraError without torchvision."""
        super().__init__()
        with needs_extra("eval", "torchvision"):
            from torchvision.models.detection import FasterRCNN, MaskRCNN
        self.masks, self.regions = masks, config.regions
        levels = [str(number) for number in range(len(SCALES))]
        least_score, most = config.limits(lvis)
        strides = [PATCH / scale for scale in (*SCALES, SCALES[-1] / 2)]
        eps = EPS if config.vitdet else 1e-5
        settings = head_settings(config.vitdet, config.channels, config.hidden, classes, masks, levels, strides) | {
            "backbone": SimplePyramid(width, config.channels, eps),
            "box_batch_size_per_image": config.regions,
            "box_score_thresh": least_score,
            "box_detections_per_img": most,
        }
        self.model: Any = MaskRCNN(**settings) if masks else FasterRCNN(**settings)
        if config.vitdet or config.federated is not None:
            customize(self.model, config.vitdet, classes, config.federated)

    def forward(
        self,
        features: Tensor,
        targets: list[dict[str, Tensor]] | None = None,
        valid_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return detections in the head's pixels; in training, return the losses.

        `valid_sizes`: heights and widths, in these pixels, of images that do not fill their maps.
        """
        from torchvision.models.detection.image_list import ImageList

        size = _pixels(features)
        sizes: Any = [size] * len(features) if valid_sizes is None else list(valid_sizes)
        images = ImageList(features.new_zeros(1).expand(len(features), 3, *size), sizes)
        maps = self.model.backbone(features)
        proposals, proposing = self.model.rpn(images, maps, targets)
        detections, losses = self.model.roi_heads(maps, proposals, images.image_sizes, targets)
        return detections, {**proposing, **losses}

    @torch.no_grad()
    def detect(
        self,
        features: Tensor,
        sizes: Sequence[tuple[int, int]],
        valid_sizes: Sequence[tuple[float, float]] | None = None,
    ) -> list[Detected]:
        """Detect objects in images of these stored heights and widths; `valid_sizes`: see `forward`."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        detections, _ = self(features, valid_sizes=valid_sizes)
        encoded = valid_sizes or [_pixels(features)] * len(sizes)
        results = []
        for found, size, stored in zip(detections, encoded, sizes, strict=True):
            boxes = found["boxes"].float().cpu() * _scale(size, stored)
            masks = None
            if "masks" in found:
                masks = (paste_masks_in_image(found["masks"].float().cpu(), boxes, stored)[:, 0] > 0.5).numpy()
            labels, scores = found["labels"].cpu().numpy(), found["scores"].float().cpu().numpy()
            results.append(Detected(boxes.numpy(), labels, scores, masks))
        return results


def _pixels(features: Maps) -> tuple[int, int]:
    return features.shape[1] * PATCH, features.shape[2] * PATCH


def _scale(source: tuple[float, float], target: tuple[int, int]) -> Tensor:
    return torch.tensor([target[1] / source[1], target[0] / source[0]] * 2, dtype=torch.float32)


def fit_detector(
    features: Maps,
    images: InstanceSet,
    rows: np.ndarray,
    masks: bool = True,
    config: DetectionConfig | None = None,
    track: Track = untracked,
) -> Detector:
    """Fit a detector on features of images; `rows`: their indices in the dataset, (n,).

    `masks`: learn masks if the dataset has them. Targets are made batch by batch: all masks of a large dataset would
    fill the memory. DataError if no image has an object.
    """
    config = config or DetectionConfig()
    masks, encoded = masks and images.has_masks, _pixels(features)

    def target(index: int) -> dict[str, Tensor]:
        row = int(rows[index])
        return _target(images.instances(row, masks), images.size(row), encoded)

    if not any(len(target(index)["labels"]) for index in range(len(features))):
        raise DataError("the training images show no objects; a detector needs some to learn from")
    generator = torch.Generator().manual_seed(config.fit.seed)
    with drawn_from(generator):
        detector = Detector(features.shape[-1], len(images.categories), masks, config, images.lvis)
    detector.model.backbone.standardize.measure(features)

    def loss(batch: np.ndarray) -> Tensor:
        with drawn_from(generator):  # regions to learn from are sampled as well
            _, losses = detector(take(features, batch), [target(index) for index in batch])
        return torch.stack([value.float() for value in losses.values()]).sum()

    fit_head(detector, loss, len(features), config.fit, "fitting a detector", track)
    return detector


def _target(objects: Instances, stored: tuple[int, int], encoded: tuple[int, int]) -> dict[str, Tensor]:
    """Return an image's target at another size, without objects thinner than half a pixel; masks are uint8."""
    boxes = torch.from_numpy(objects.boxes) * _scale(stored, encoded)
    wide = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(dim=1)
    target = {"boxes": boxes[wide], "labels": torch.from_numpy(objects.labels)[wide]}
    if objects.masks is not None:
        masks = torch.from_numpy(objects.masks)[wide][:, None].float()
        resized = F.interpolate(masks, encoded, mode="nearest-exact") if len(masks) else masks.new_empty(0, 1, *encoded)
        target["masks"] = resized[:, 0].to(torch.uint8)
    return target
