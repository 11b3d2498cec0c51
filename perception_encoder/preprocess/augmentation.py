"""Training augmentation on uint8 pictures: random crop, flip, brightness and saturation (step 8 of section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 7
"""Random numbers that a picture's augmentation takes."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges to draw from; the defaults are the paper's (appendix B.1.1)."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that a crop keeps."""
    aspect: tuple[float, float] = (0.75, 1.33)
    """Width over height of a crop, before it is squashed to a square."""
    brightness: float = 0.32
    saturation: float = 0.32
    flip: float = 0.5
    """Probability of a mirror image."""


def augment(picture: Tensor, size: int, augmentation: Augmentation | None, draw: Sequence[float]) -> Tensor:
    """Augment a uint8 picture (3, H, W) to (3, size, size); without `augmentation`, squash.

    `draw`: `DRAWS` numbers from 0 to 1, by which everything is chosen.
    """
    if augmentation is None:
        return _resize(picture, size)
    top, left, height, width = _crop(picture.shape[-2], picture.shape[-1], augmentation, draw)
    crop = picture[:, top : top + height, left : left + width]
    if draw[4] < augmentation.flip:
        crop = crop.flip(-1)
    return jitter(_resize(crop, size)[None], augmentation, torch.tensor([draw[5:]]))[0]


def _resize(picture: Tensor, size: int) -> Tensor:
    return F.interpolate(picture[None], size=(size, size), mode="bilinear", antialias=True)[0]


def needed_side(width: int, height: int, size: int, augmentation: Augmentation | None, draw: Sequence[float]) -> int:
    """How long the short side of a picture must stay, upright or turned, for its crop to have `size` px each way."""
    short = min(width, height)
    if augmentation is None:
        return size
    return math.ceil(size * short / min(short, *_crop_sides(height, width, augmentation, draw)))


def _crop(height: int, width: int, augmentation: Augmentation, draw: Sequence[float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, clipped to the picture."""
    tall, wide = _crop_sides(height, width, augmentation, draw)
    crop_height, crop_width = min(height, max(1, round(tall))), min(width, max(1, round(wide)))
    return (
        int(draw[2] * (height - crop_height + 1)),
        int(draw[3] * (width - crop_width + 1)),
        crop_height,
        crop_width,
    )


def _crop_sides(height: int, width: int, augmentation: Augmentation, draw: Sequence[float]) -> tuple[float, float]:
    """Height and width of a random crop, before it is clipped to the picture."""
    low, high = augmentation.scale
    area = height * width * (low + (high - low) * draw[0])
    log_low, log_high = (math.log(bound) for bound in augmentation.aspect)
    aspect = math.exp(log_low + (log_high - log_low) * draw[1])
    return math.sqrt(area / aspect), math.sqrt(area * aspect)


def jitter(batch: Tensor, augmentation: Augmentation, draws: Tensor) -> Tensor:
    """Brightness and saturation of each picture of a uint8 batch (B, 3, H, W) times its own factor.

    `draws` (B, 2): numbers from 0 to 1, by which the two factors are chosen.
    """
    strengths = torch.tensor([augmentation.brightness, augmentation.saturation])
    brightness, saturation = (1 + strengths * (2 * draws - 1)).view(-1, 2, 1, 1, 1).unbind(1)
    pixels = batch.float() * brightness
    grey = (pixels * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return torch.lerp(grey, pixels, saturation).clamp_(0, 255).to(torch.uint8)
