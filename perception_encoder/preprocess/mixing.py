"""Mixed pictures: each lies over another of its batch, or shows a piece of it, and is as true of both as they show.

Not the paper's, which has billions of pairs. A few thousand pictures are learned by heart within some epochs; their
mixtures are new at every step (mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception_encoder.errors import ConfigError

MIXING_DRAWS = 5
"""Random numbers that a picture's mixing takes."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How many pictures of a batch are mixed, and how."""

    share: float = 0.8
    """Of the pictures, those that are mixed."""
    pasted: float = 0.5
    """Of the mixed, those that get a piece of the other picture pasted in; the rest are blended with it."""

    def __post_init__(self) -> None:
        for name in ("share", "pasted"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mixing.{name} is {getattr(self, name)}; it must be from 0 to 1")


def mix(pictures: Tensor, others: Tensor, mixing: Mixing, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) mixed with `others`, uint8 both; and the share of itself that each keeps (B,), ≥ 1/2.

    `draws` (B, `MIXING_DRAWS`): numbers from 0 to 1, by which everything is chosen.
    """
    size = pictures.shape[-1]
    given = torch.where(draws[:, 0] < mixing.share, draws[:, 1] / 2, 0.0)  # what each gets of the other
    pasted = draws[:, 2] < mixing.pasted
    sides = torch.where(pasted, (given.sqrt() * size).floor(), 0.0)
    rows, columns = (_spans(sides, places, size) for places in (draws[:, 3], draws[:, 4]))
    blend = torch.where(pasted, 0.0, given).view(-1, 1, 1, 1)
    blended = torch.lerp(pictures.float(), others.float(), blend).round_().to(torch.uint8)
    mixed = torch.where(rows[:, None, :, None] & columns[:, None, None, :], others, blended)
    return mixed, 1 - torch.where(pasted, (sides / size) ** 2, given)


def _spans(lengths: Tensor, places: Tensor, size: int) -> Tensor:
    """Which of `size` pixels lie in spans of these lengths, each at its place from 0 to 1: bool (B, size)."""
    starts = (places * (size - lengths + 1)).floor()[:, None]
    at = torch.arange(size)
    return (at >= starts) & (at < starts + lengths[:, None])
