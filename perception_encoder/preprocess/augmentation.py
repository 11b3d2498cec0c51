"""Training augmentation on uint8 images: random crop (torchvision's), flip and colours (step 8 of section 2.1); mixing.

Mixing (mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899) is not the paper's: it keeps small data from being memorised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.records import Checked, Positive, Share, ShareAboveZero, check_ordered

TRIES = 10
"""Maximum number of crops to draw until one fits into the image, as in torchvision."""
DRAWS = 2 * TRIES + 5
"""Random numbers per image: area and aspect of each crop, then top, left, flip, brightness, saturation."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class Augmentation(Checked):
    """Ranges to draw from; defaults are the paper's (appendix B.1.1)."""

    scale: tuple[ShareAboveZero, ShareAboveZero] = (0.08, 1.0)
    """Share of the image's area in a crop."""
    aspect: tuple[Positive, Positive] = (0.75, 1.33)
    """Aspect ratio (width / height) of a crop, before it is squashed to a square."""
    brightness: Share = 0.32
    """Brightness is multiplied by a factor within 1 ± this."""
    saturation: Share = 0.32
    """Saturation is multiplied by a factor within 1 ± this."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ordered(self, "scale")
        check_ordered(self, "aspect")


def augment(image: Tensor, size: int, augmentation: Augmentation | None, draw: Sequence[float]) -> Tensor:
    """Augment a uint8 image (3, H, W) to (3, size, size); without `augmentation`, only resize.

    All frames of a video (F, 3, H, W) get the same augmentation. `draw`: `DRAWS` numbers from 0 to 1, which
    determine all choices.
    """
    cropped = crop(image if image.dim() == 4 else image[None], augmentation, draw)
    frames = F.interpolate(cropped, size=(size, size), mode="bilinear", antialias=True)
    if augmentation is not None:
        frames = jitter(frames, augmentation, torch.tensor([draw[2 * TRIES + 3 :]]))
    return frames.view(*image.shape[:-2], size, size)


def crop(frames: Tensor, augmentation: Augmentation | None, draw: Sequence[float]) -> Tensor:
    """Crop, and perhaps mirror, the part of (…, H, W) that `augment` takes with this `draw`; also for masks.

    The part of a mask is that of an image of the same size.
    """
    if augmentation is None:
        return frames
    top, left, height, width = _crop(frames.shape[-2], frames.shape[-1], augmentation, draw)
    part = frames[..., top : top + height, left : left + width]
    return part.flip(-1) if draw[2 * TRIES + 2] < augmentation.flip else part


def needed_side(size: int, augmentation: Augmentation | None) -> int:
    """Return the minimum short side of an image for each of its crops to have at least `size` px."""
    if augmentation is None:
        return size
    smallest_square = augmentation.scale[0] * min(augmentation.aspect[0], 1 / augmentation.aspect[1])
    return math.ceil((size + 1) / math.sqrt(smallest_square))  # a side is rounded


def _crop(height: int, width: int, augmentation: Augmentation, draw: Sequence[float]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the first random crop that fits.

    If none does: of the largest central one whose aspect ratio is the allowed one nearest to the image's.
    """
    (low, high), (log_low, log_high) = augmentation.scale, map(math.log, augmentation.aspect)
    for share, position in zip(draw[: 2 * TRIES : 2], draw[1 : 2 * TRIES : 2], strict=True):
        area = height * width * (low + (high - low) * share)
        aspect = math.exp(log_low + (log_high - log_low) * position)
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = draw[2 * TRIES : 2 * TRIES + 2]
            return int(top * (height - crop_height + 1)), int(left * (width - crop_width + 1)), crop_height, crop_width
    narrow, wide = augmentation.aspect
    crop_height, crop_width = max(1, round(min(height, width / narrow))), max(1, round(min(width, height * wide)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def jitter(batch: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Scale brightness and saturation of each image of a uint8 batch (B, 3, H, W).

    `draws` (B, 2), or (1, 2) for all: numbers from 0 to 1, which determine the two factors.
    """
    strengths = torch.tensor([augmentation.brightness, augmentation.saturation])
    brightness, saturation = (1 + strengths * (2 * draws - 1)).view(-1, 2, 1, 1, 1).unbind(1)
    pixels = batch.float() * brightness
    grey = (pixels * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.lerp(grey, pixels, saturation).clamp_(0, 255).to(torch.uint8)


MIXING_DRAWS = 5
"""Random numbers per image for mixing."""


@dataclass(frozen=True, kw_only=True)
class Mixing(Checked):
    """How to mix images in a batch."""

    share: Share = 0.8
    """Share of images to mix."""
    pasted: Share = 0.5
    """Share of the mixed images that get a patch of the other image (CutMix); the rest are blended (mixup)."""


def mix(images: Tensor, others: Tensor, mixing: Mixing, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mix uint8 images (B, 3, S, S) with `others`; also return the share that each image keeps (B,), ≥ 1/2.

    `draws` (B, `MIXING_DRAWS`): numbers from 0 to 1, which determine all choices.
    """
    size = images.shape[-1]
    shares = torch.where(draws[:, 0] < mixing.share, draws[:, 1] / 2, 0.0)  # what each gets of the other
    pasted = draws[:, 2] < mixing.pasted
    sides = torch.where(pasted, (shares.sqrt() * size).floor(), 0.0)
    rows, columns = (_spans(sides, positions, size) for positions in (draws[:, 3], draws[:, 4]))
    blend = torch.where(pasted, 0.0, shares).view(-1, 1, 1, 1)
    blended = torch.lerp(images.float(), others.float(), blend).round_().to(torch.uint8)
    mixed = torch.where(rows[:, None, :, None] & columns[:, None, None, :], others, blended)
    return mixed, 1 - torch.where(pasted, (sides / size) ** 2, shares)


def _spans(lengths: Tensor, positions: Tensor, size: int) -> Tensor:
    """Return which of `size` pixels lie in spans of these lengths and relative positions: bool (B, size)."""
    starts = (positions * (size - lengths + 1)).floor()[:, None]
    at = torch.arange(size)
    return (at >= starts) & (at < starts + lengths[:, None])
