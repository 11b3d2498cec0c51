"""Configurations of the towers: what a model is, apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower (section 2.4, appendix B.1)."""

    image_size: int
    """Side of the square picture it was trained on, in pixels; fixes the grid of the position embedding."""
    patch_size: int
    """Side of a patch, in pixels."""
    width: int
    depth: int
    heads: int
    mlp_width: int
    class_token: bool = True
    attention_pool: bool = True
    """Pool with a learned probe of 8 heads, then project; without it the tower gives tokens or, where it has an
    `output_dim`, projects the class token."""
    final_norm: bool = True
    """A LayerNorm (`ln_post`) after the last block."""
    layer_scale: float | None = None
    """Initial LayerScale; None for none."""
    rope: bool = True
    """2D RoPE inside every attention, beside the absolute embedding."""
    output_dim: int | None = None
    """Width of the bias-free projection after pooling; None for none."""

    def __post_init__(self) -> None:
        if self.output_dim and not (self.attention_pool or self.class_token):
            raise ConfigError("a tower that projects needs attention_pool or class_token, to have something to project")

    @property
    def pools(self) -> bool:
        """Whether the tower makes one vector of a picture, by its attention pooling or out of its class token."""
        return self.attention_pool or self.output_dim is not None

    @property
    def grid(self) -> int:
        """Patches along one side at the training size."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A causal text tower over the CLIP vocabulary."""

    context_length: int
    width: int
    depth: int
    heads: int
    output_dim: int
    vocabulary: int = 49408
