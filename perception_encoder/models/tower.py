"""A vision transformer of any library: pixels to the tokens of its layers, and what is known of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from perception_encoder.models.checkpoints.weights import Model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.vision_transformer import VisionTransformer


@dataclass(frozen=True, kw_only=True)
class Tower(ABC):
    """A vision transformer; each library has a subclass that runs it."""

    model: nn.Module
    norm: nn.Module
    """The final norm; it takes and gives tokens (B, N, D)."""
    depth: int
    patch_size: int
    image_size: tuple[int, int]
    width: int
    weight_hash: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    class_token: bool = False
    """Whether the first token is a class token."""
    fixed_size: bool = False
    """Whether it takes images of `image_size` only."""

    @abstractmethod
    def run(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Scaled pixels (B, 3, H, W) and ascending layers to each layer's tokens (B, P + h·w, D).

        Prefix tokens come first; tokens are as their block leaves them, without the final norm.
        """


class OwnTower(Tower):
    """The vision tower of a model of this package."""

    model: VisionTransformer

    @classmethod
    def of(cls, model: Model, known_hash: str | None = None) -> OwnTower:
        """The tower of a model; the model itself is used, not a copy. `known_hash`: of its weights."""
        visual = model.visual if isinstance(model, CLIP) else model
        config = visual.config
        return cls(
            model=visual,
            norm=visual.ln_post,
            depth=config.depth,
            patch_size=config.patch_size,
            image_size=(config.image_size, config.image_size),
            width=config.width,
            weight_hash=known_hash or weight_hash(model),
            class_token=config.class_token,
        )

    def run(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        pairs = self.model.forward_intermediates(
            pixels,
            list(layers),
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in cast(list[tuple[Tensor, Tensor]], pairs)]
