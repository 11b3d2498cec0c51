"""One interface to the vision transformers of all libraries: pixels to the tokens of any layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perception_encoder.models.checkpoints.weights import Model, weight_hash
from perception_encoder.models.clip import CLIP


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision transformer of this package or of timm; a subclass runs those of transformers."""

    model: nn.Module
    norm: nn.Module
    """The final norm; it takes and returns tokens (B, N, D)."""
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
    """Whether it only takes images of `image_size`."""

    @property
    def padding(self) -> tuple[int, int, int]:
        """The padding pixel of its images: the mean, rounded."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    @classmethod
    def of(cls, model: Model, known_hash: str | None = None) -> Tower:
        """Return the vision tower of a model; the module is shared, not copied. `known_hash`: hash of its weights."""
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
        """Return each layer's tokens (B, P + h·w, D) for scaled pixels (B, 3, H, W) and ascending layers.

        Prefix tokens come first. The final norm is not applied.
        """
        model: Any = self.model
        features = model.forward_intermediates(
            pixels,
            indices=list(layers),
            return_prefix_tokens=bool(model.num_prefix_tokens),
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [torch.cat(feature[::-1], dim=1) if isinstance(feature, tuple) else feature for feature in features]
