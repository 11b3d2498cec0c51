"""Configurations of the towers: a model without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from perception_encoder.errors import ConfigError
from perception_encoder.records import Checked, Range

# Maximum sizes of a tower, well above any published model's, to limit the memory that a file can request
Length = Annotated[int, Range(at_least=1, at_most=8192)]
"""Pixels of an image's side, or tokens of a text."""
Width = Annotated[int, Range(at_least=1, at_most=16_384)]
Depth = Annotated[int, Range(at_least=1, at_most=256)]
Heads = Annotated[int, Range(at_least=1, at_most=512)]
_POOL_HEADS = 8  # of the attention pooling


@dataclass(frozen=True, kw_only=True)
class VisionConfig(Checked):
    """A vision tower (section 2.4, appendix B.1)."""

    image_size: Length
    """Side of the square training image, in pixels; determines the grid of the position embedding."""
    patch_size: Annotated[int, Range(at_least=1, at_most=512)]
    """Side of a patch, in pixels."""
    width: Width
    depth: Depth
    heads: Heads
    mlp_width: Annotated[int, Range(at_least=1, at_most=131_072)]
    class_token: bool = True
    attention_pool: bool = True
    """Pool with a learned probe of 8 heads, then project. Without it the tower returns tokens or, with an
    `output_dim`, projects the class token."""
    final_norm: bool = True
    """A LayerNorm (`ln_post`) after the last block."""
    layer_scale: Annotated[float, Range(above=0, at_most=10)] | None = None
    """Initial LayerScale; None for none."""
    rope: bool = True
    """2D RoPE in every attention, in addition to the absolute embedding."""
    output_dim: Width | None = None
    """Width of the bias-free projection after pooling; None for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides("heads", self.heads, "width", self.width)
        if self.rope and self.width // self.heads % 4:
            reason = f"with RoPE width / heads must be a multiple of 4, and width is {self.width}"
            raise ConfigError(f"heads is {self.heads}; {reason}")
        if self.attention_pool:
            _check_divides("the number of pooling heads", _POOL_HEADS, "width", self.width)
        if self.patch_size > self.image_size:
            raise ConfigError(f"patch_size is {self.patch_size}; it must be at most image_size, {self.image_size}")
        if self.output_dim and not (self.attention_pool or self.class_token):
            raise ConfigError(
                "output_dim needs attention_pool or class_token: without both there is nothing to project"
            )

    @property
    def pools(self) -> bool:
        """Whether the tower returns one embedding per image, by attention pooling or from its class token."""
        return self.attention_pool or self.output_dim is not None

    @property
    def grid(self) -> int:
        """Patches along one side at the training size."""
        return self.image_size // self.patch_size

    @property
    def block_parameters(self) -> int:
        """Parameters of one transformer block, without LayerScale."""
        return _block_parameters(self.width, self.mlp_width)

    @property
    def parameters(self) -> int:
        """Parameters of the tower."""
        width = self.width
        stem = 3 * self.patch_size**2 * width + (2 * int(self.class_token) + self.grid**2) * width + 2 * width
        scales = 0 if self.layer_scale is None else 2 * width
        pooling = 12 * width**2 + 12 * width if self.attention_pool else 0
        head = (2 * width if self.final_norm else 0) + pooling + width * (self.output_dim or 0)
        return stem + self.depth * (self.block_parameters + scales) + head


@dataclass(frozen=True, kw_only=True)
class TextConfig(Checked):
    """A causal text tower over the CLIP vocabulary."""

    context_length: Length
    width: Width
    depth: Depth
    heads: Heads
    output_dim: Width
    vocabulary: Annotated[int, Range(at_least=1, at_most=1 << 20)] = 49408

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divides("heads", self.heads, "width", self.width)

    @property
    def block_parameters(self) -> int:
        """Parameters of one transformer block."""
        return _block_parameters(self.width, 4 * self.width)

    @property
    def parameters(self) -> int:
        """Parameters of the tower."""
        tables = (self.vocabulary + self.context_length) * self.width
        return tables + self.depth * self.block_parameters + 2 * self.width + self.width * self.output_dim


def _block_parameters(width: int, hidden: int) -> int:
    """Two norms, attention, feed-forward."""
    return 4 * width + 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width


def _check_divides(name: str, value: int, whole_name: str, whole: int) -> None:
    if whole % value:
        raise ConfigError(f"{name} is {value}; it must divide {whole_name}, {whole}")
