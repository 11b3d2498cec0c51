"""Segment images with a linear head over one layer's features: class scores per patch, resized to pixels bilinearly.

Its targets are the shares of the classes among a patch's pixels: for a patch of one class, the loss is the pixels'
cross-entropy. The paper's head (appendix B.3) has a linear and a convolutional layer, this one has either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, Standardize, fit_head, resized_maps, take
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.initialization import drawn_from
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count

Labels = Callable[[int], np.ndarray]
"""Returns the classes (H, W) of an item's pixels by index, negative where ignored."""

_FINE = 4  # label points along a patch's side


@dataclass(frozen=True, kw_only=True)
class SegmentationHeadConfig(Checked):
    """Size of the head."""

    kernel: Count = 1
    """Kernel size in patches: 1 is a linear probe, 3 includes the neighbours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel is {self.kernel}; it must be odd")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(SegmentationHeadConfig):
    """The head, and how to fit it to features."""

    fit: FitConfig = field(default_factory=FitConfig)


class SegmentationHead(nn.Module):
    """Features (B, h, w, D) to class scores (B, K, h, w)."""

    def __init__(self, width: int, classes: int, kernel: int) -> None:
        super().__init__()
        self.standardize = Standardize(width)
        self.score = nn.Conv2d(width, classes, kernel, padding=kernel // 2)

    def forward(self, features: Float[Tensor, "B h w D"]) -> Float[Tensor, "B K h w"]:
        return self.score(self.standardize(features))

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "B h w D"], size: tuple[int, int]) -> Int[Tensor, "B H W"]:
        """Return the most probable class of each pixel at a size (height, width)."""
        return F.interpolate(self(features), size, mode="bilinear").argmax(dim=1)


def fit_segmentation(
    features: Maps, labels: Labels, classes: int, config: SegmentationConfig | None = None, track: Track = untracked
) -> SegmentationHead:
    """Fit a head on features and labels; DataError if the labels have fewer than two classes."""
    config = config or SegmentationConfig()
    with drawn_from(torch.Generator().manual_seed(config.fit.seed)):
        head = SegmentationHead(features.shape[-1], classes, config.kernel)
    head.standardize.measure(features)
    size = _FINE * features.shape[1], _FINE * features.shape[2]
    targets = resized_maps(labels, len(features), size, torch.int16)
    if len(seen := targets[targets >= 0].unique()) < 2:
        raise DataError(f"the training images have {len(seen)} class; at least 2 are needed")

    def loss(rows: np.ndarray) -> Tensor:
        return class_share_loss(head(take(features, rows)), targets[torch.from_numpy(rows)].long())

    fit_head(head, loss, len(features), config.fit, "fitting a segmentation head", track)
    return head


def class_share_loss(scores: Float[Tensor, "B K h w"], labels: Int[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of patches, whose target probabilities are the classes' shares of their pixels.

    Labels are sampled at 4 by 4 points of each patch. Negative ones are ignored; a patch of them has a loss of 0.
    """
    h, w = scores.shape[-2:]
    fine = F.interpolate(labels[:, None].float(), (_FINE * h, _FINE * w), mode="nearest-exact")[:, 0].long()
    shares = F.one_hot(fine.clamp_min(0), scores.shape[1]).float() * (fine >= 0)[..., None]
    shares = F.avg_pool2d(shares.permute(0, 3, 1, 2), _FINE)  # (B, K, h, w)
    return -(shares * scores.float().log_softmax(dim=1)).sum(dim=1).mean()


RING = 0.5
"""Margin around a box that counts as its background, relative to the box's width and height."""


def to_fractions(position: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    """Return a point or a box, x before y, as fractions of an image's `size` (width, height).

    Numbers are pixels if one of them is above 1, else fractions already. ConfigError for a position outside the image.
    """
    sides = (*size, *size) if max(position) > 1 else (1, 1, 1, 1)
    fractions = tuple(value / side for value, side in zip(position, sides, strict=False))
    if len(position) not in (2, 4) or not all(0 <= value <= 1 for value in fractions):
        listed = ",".join(f"{value:g}" for value in position)
        raise ConfigError(f"the position {listed} is not inside the image of {size[0]}x{size[1]} pixels")
    return fractions


def region_like(features: Float[np.ndarray, "h w D"], point: Sequence[float]) -> Float[np.ndarray, "h w"]:
    """Return each patch's cosine similarity to the patch at `point` (x, y from 0 to 1), minus Otsu's threshold.

    The region is where it is positive.
    """
    maps = F.normalize(torch.from_numpy(features).float(), dim=-1)
    h, w = maps.shape[:2]
    cosines = maps @ maps[min(h - 1, int(point[1] * h)), min(w - 1, int(point[0] * w))]
    return (cosines - otsu_threshold(cosines.numpy().ravel())).numpy()


def region_in_box(features: Float[np.ndarray, "h w D"], box: Sequence[float]) -> Float[np.ndarray, "h w"]:
    """Return by how much each patch of a box resembles its centre more than its surroundings; -1 outside the box.

    `box`: left, top, right and bottom, from 0 to 1. The object is where the value is positive: everywhere, if the box
    is the whole image.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ConfigError(f"the box is {list(box)}; it must be left, top, right, bottom from 0 to 1, with an area")
    maps = F.normalize(torch.from_numpy(features).float(), dim=-1)
    inside, width, height = _patches_in(maps.shape[:2], box), right - left, bottom - top
    wide = (left - RING * width, top - RING * height, right + RING * width, bottom + RING * height)
    middle = (left + width / 4, top + height / 4, right - width / 4, bottom - height / 4)
    around = _patches_in(maps.shape[:2], wide) & ~inside
    if not around.any():
        return np.where(inside, 1.0, -1.0).astype(np.float32)
    parts = (_patches_in(maps.shape[:2], middle), around)
    shown, background = (F.normalize(maps[torch.from_numpy(part)].mean(0), dim=0) for part in parts)
    return np.where(inside, (maps @ shown - maps @ background).numpy(), -1.0).astype(np.float32)


def to_mask(region: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Return the mask where a map of patches, resized to an image of `size` (width, height), is positive."""
    stretched = F.interpolate(torch.from_numpy(region)[None, None].float(), (size[1], size[0]), mode="bilinear")
    return np.asarray(stretched[0, 0] > 0)


def label_regions(
    features: Float[np.ndarray, "h w D"], positions: Sequence[Sequence[float]], size: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """Number the regions at points (`region_like`) and in boxes (`region_in_box`) from 1; later ones on top.

    Boxes are on top of points, whose regions may be anywhere in the image. `size`: width and height of the image.
    DataError for a position without a region.
    """
    labels = np.zeros((size[1], size[0]), np.int64)
    for number, position in sorted(enumerate(positions, start=1), key=lambda numbered: len(numbered[1])):
        region = region_in_box if len(position) == 4 else region_like
        found = to_mask(region(features, position), size)
        if not found.any():
            raise DataError(f"no object found at {tuple(position)}; draw its mask, or choose another position")
        labels[found] = number
    return labels


def otsu_threshold(values: Float[np.ndarray, " n"]) -> float:
    """Return the threshold that splits values into two groups with maximum variance between their means."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * middles)
    above = len(values) - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1 + np.nanargmax(between)]) if np.isfinite(between).any() else float(values[0])


def _patches_in(grid: Sequence[int], box: Sequence[float]) -> Bool[np.ndarray, "h w"]:
    """Return the patches whose centres are in a box, at least the patch at the box's centre."""
    h, w = grid
    y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    inside = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None]
    middle = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
    inside[min(h - 1, max(0, int(middle[0] * h))), min(w - 1, max(0, int(middle[1] * w)))] = True
    return np.asarray(inside)
