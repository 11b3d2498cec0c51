"""Images with their targets, augmented together by torchvision's transforms."""

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
augmented also "inside", height and width of the part of the square that shows the image."""


class DenseSamples(Protocol):
    """A dataset's images with their targets."""

    @property
    def keys(self) -> Sequence[str]:
        """The images' names."""
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
        return _sized(self.dataset.open(index), {"labels": labels - UNSCORED})  # 0 is then what padding is: not scored


@dataclass(frozen=True)
class ObjectSamples:
    """Images with boxes, and with masks if `masks` and the dataset has them."""

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
    """Scale an image to its target's size, if they differ."""
    (height, width) = next(iter(targets.values())).shape
    return (
        image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    ), targets


@dataclass(frozen=True)
class Augmenter:
    """Large-scale jitter to a square, and mirroring (Ghiasi et al., 2021), by torchvision's functions.

    Its transforms would draw from torch's own generator, which the detector uses in another thread at the same time.
    """

    size: int
    """Pixels of the square's side."""
    scales: tuple[float, float]
    flip: float
    padding: Sequence[int]
    """The pixel to the right of and below an image that does not fill the square; see `padding_pixel`."""

    def __call__(
        self, image: Image.Image, targets: Targets, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """Return the augmented image and targets; objects that are cropped away are left out.

        MissingExtraError without torchvision.
        """
        v2, tv = _torchvision()
        flip, scale, down, right = torch.rand(4, generator=generator).tolist()
        low, high = self.scales
        ratio = self.size / max(image.size) * (low + scale * (high - low))
        sides = [max(1, round(side * ratio)) for side in (image.height, image.width)]
        rooms = [self.size - side for side in sides]  # below 0 the image is cropped, above it is padded
        top, left = (round(part * min(0, room)) for part, room in zip((down, right), rooms, strict=True))
        padding = [0, 0, max(0, rooms[1]), max(0, rooms[0])]

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
    """Wrap an image and its targets, so that torchvision moves each as what it is."""
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
    """Objects of which a pixel is left, with the boxes of their masks if they have some."""
    if "masks" in targets:
        from torchvision.ops import masks_to_boxes

        left = targets["masks"].bool().flatten(1).any(dim=1)
        targets = {name: value[left] for name, value in targets.items()}
        edges = torch.tensor([0.0, 0, 1, 1])  # the last pixels are inside
        return {**targets, "boxes": masks_to_boxes(targets["masks"]).reshape(-1, 4) + edges}
    boxes = targets["boxes"]
    left = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return {name: value[left] for name, value in targets.items()}


def _torchvision() -> tuple[Any, Any]:
    try:
        from torchvision import tv_tensors
        from torchvision.transforms import v2
    except ImportError:
        raise MissingExtraError("torchvision", "eval") from None
    return v2, tv_tensors
