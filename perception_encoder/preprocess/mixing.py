"""Mixed images: each is blended with another of its batch, or shows a piece of it, and is labelled as both, by share.

Not the paper's, which has billions of pairs. A few thousand images are memorised within some epochs; their
mixtures are new at every step (mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception_encoder.errors import ConfigError

MIXING_DRAWS = 5
"""Random numbers that an image's mixing takes."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How many images of a batch are mixed, and how."""

    share: float = 0.8
    """Share of the images that are mixed."""
    pasted: float = 0.5
    """Share of the mixed images that get a piece of the other one pasted in; the rest are blended with it."""

    def __post_init__(self) -> None:
        for name in ("share", "pasted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mixing.{name} is {getattr(self, name)}; it must be from 0 to 1")


def mix(images: Tensor, others: Tensor, mixing: Mixing, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) mixed with `others`, uint8 both; and the share of itself that each keeps (B,), ≥ 1/2.

    `draws` (B, `MIXING_DRAWS`): numbers from 0 to 1, by which everything is chosen.
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
    """Which of `size` pixels lie in spans of these lengths, each at its position from 0 to 1: bool (B, size)."""
    starts = (positions * (size - lengths + 1)).floor()[:, None]
    at = torch.arange(size)
    return (at >= starts) & (at < starts + lengths[:, None])
