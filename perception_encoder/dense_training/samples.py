"""Read images with their targets, and augment both by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from perception_encoder.datasets.class_masks import UNSCORED, ClassMasks
from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.errors import MissingExtraError

Targets = dict[str, Tensor]
"""Depth: "depth" (H, W) in metres. Segmentation: "labels" (H, W). Detection: "boxes" (m, 4), "labels" and "masks";
after augmentation also "inside", the height and width of the part of the square that shows the image."""


class DenseSamples(Protocol):
    """A dataset's images with their targets."""

    @property
    def keys(self) -> Sequence[str]:
        """Names of the images."""
        ...

    def read(self, index: int) -> tuple[Image.Image, Targets]:
        """Decode an image, RGB, and its targets in its pixels; InputError or DataError if that fails."""
        ...


@dataclass(frozen=True)
class DepthSamples:
    """Images with the depth of each pixel."""

    dataset: DepthImages

    @property
    def keys(self) -> Sequence[str]:
        return self.dataset.keys

    def read(self, index: int) -> tuple[Image.Image, Targets]:
        return _sized(self.dataset.open(index), {"depth": torch.from_numpy(self.dataset.depth(index))})


@dataclass(frozen=True)
class ClassSamples:
    """Images with the class of each pixel."""

    dataset: ClassMasks

    @property
    def keys(self) -> Sequence[str]:
        return self.dataset.keys

    def read(self, index: int) -> tuple[Image.Image, Targets]:
        labels = torch.from_numpy(self.dataset.labels(index).astype(np.int64))
        return _sized(self.dataset.open(index), {"labels": labels - UNSCORED})  # 0, like padding, is not scored


@dataclass(frozen=True)
class ObjectSamples:
    """Images with boxes, and with masks if `masks` is set and the dataset has them."""

    dataset: InstanceSet
    masks: bool = True

    @property
    def keys(self) -> Sequence[str]:
        return self.dataset.keys

    def read(self, index: int) -> tuple[Image.Image, Targets]:
        objects = self.dataset.instances(index, self.masks)
        targets = {"boxes": torch.from_numpy(objects.boxes), "labels": torch.from_numpy(objects.labels)}
        if objects.masks is not None:
            targets["masks"] = torch.from_numpy(objects.masks).to(torch.uint8)
        return self.dataset.open(index), targets


def _sized(image: Image.Image, targets: Targets) -> tuple[Image.Image, Targets]:
    """Resize an image to its target's size, if they differ."""
    (height, width) = next(iter(targets.values())).shape
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image, targets


@dataclass(frozen=True)
class Augmenter:
    """Large-scale jitter to a square, and mirroring (Ghiasi et al., 2021), by torchvision's functions.

    Its transform classes would draw from torch's global generator, which the detector uses in another thread.
    """

    size: int
    """Side of the square in pixels."""
    scales: tuple[float, float]
    flip: float
    padding: Sequence[int]
    """Pixel that fills the square to the right of the image and below it; see `padding_pixel`."""

    def __call__(
        self, image: Image.Image, targets: Targets, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """Return the augmented image and targets, without the objects that are cropped away.

        MissingExtraError without torchvision.
        """
        v2, tv = _torchvision()
        flip, scale, down, right = torch.rand(4, generator=generator).tolist()
        low, high = self.scales
        ratio = self.size / max(image.size) * (low + scale * (high - low))
        sides = [max(1, round(side * ratio)) for side in (image.height, image.width)]
        margins = [self.size - side for side in sides]  # negative: the image is cropped; positive: it is padded
        top, left = (round(part * min(0, margin)) for part, margin in zip((down, right), margins, strict=True))
        padding = [0, 0, max(0, margins[1]), max(0, margins[0])]

        def move(value: Any) -> Any:
            value = v2.functional.horizontal_flip(value) if flip < self.flip else value
            value = v2.functional.resize(value, sides, antialias=True)
            value = v2.functional.pad(value, padding, fill=list(self.padding) if isinstance(value, tv.Image) else 0)
            return v2.functional.crop(value, -top, -left, self.size, self.size)

        pixels, wrapped = as_tv_tensors(image, targets)
        moved = {name: move(value) if isinstance(value, tv.TVTensor) else value for name, value in wrapped.items()}
        if "boxes" in moved:
            moved["boxes"] = v2.functional.clamp_bounding_boxes(moved["boxes"])
        plain = {name: value.as_subclass(Tensor) for name, value in moved.items()}
        if "boxes" in plain:
            plain = {**_seen(plain), "inside": torch.tensor([min(side, self.size) for side in sides])}
        return move(pixels).as_subclass(Tensor), plain


def as_tv_tensors(image: Image.Image, targets: Targets) -> tuple[Any, dict[str, Any]]:
    """Wrap an image and its targets, so that torchvision transforms each by its kind."""
    v2, tv = _torchvision()
    wrapped: dict[str, Any] = {}
    for name, value in targets.items():
        if name == "boxes":
            wrapped[name] = tv.BoundingBoxes(value, format="XYXY", canvas_size=(image.height, image.width))
        elif name == "labels" and value.ndim == 1:
            wrapped[name] = value
        else:
            wrapped[name] = tv.Mask(value)
    return v2.functional.to_image(image), wrapped


def _seen(targets: Targets) -> Targets:
    """Return the objects that are still visible, with the boxes of their masks if there are any."""
    if "masks" in targets:
        from torchvision.ops import masks_to_boxes

        visible = targets["masks"].bool().flatten(1).any(dim=1)
        targets = {name: value[visible] for name, value in targets.items()}
        edges = torch.tensor([0.0, 0, 1, 1])  # the last pixels are inside
        return {**targets, "boxes": masks_to_boxes(targets["masks"]).reshape(-1, 4) + edges}
    boxes = targets["boxes"]
    visible = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return {name: value[visible] for name, value in targets.items()}


def _torchvision() -> tuple[Any, Any]:
    try:
        from torchvision import tv_tensors
        from torchvision.transforms import v2
    except ImportError:
        raise MissingExtraError("torchvision", "eval") from None
    return v2, tv_tensors
