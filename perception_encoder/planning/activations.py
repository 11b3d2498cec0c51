"""Compute the memory that a forward pass saves for the backward pass: bytes of one input.

Counted is what autograd saves, of fused attention, which keeps no scores. The residual stream and what the norms read
are float32; what products read and give has the type that products are computed in, of `size` bytes an element: 2
under bf16 autocast, 4 without. Copies of weights in that type are not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.models.config import TextConfig, VisionConfig

FLOAT32, BFLOAT16 = 4, 2
"""Bytes of an element."""
OPTIMIZER = 2
"""Moments of a parameter, in float32."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of one input, by part."""

    ends: int
    """Before the first block and after the last."""
    block: int
    """Of each block."""
    block_input: int
    """Of `block`, all that checkpointing keeps."""
    depth: int

    def total(self, checkpointing: bool = False) -> int:
        """At most at any time; with `checkpointing`, every block's input and one block whole."""
        if checkpointing:
            return self.ends + self.depth * self.block_input + self.block - self.block_input
        return self.ends + self.depth * self.block


def vision_activations(config: VisionConfig, image_size: int | None = None, size: int = 2) -> Activations:
    """Of one square image of `image_size` px, by default the configuration's, through tokens, pooling, projection."""
    side, width = image_size or config.image_size, config.width
    tokens = (side // config.patch_size) ** 2 + int(config.class_token)
    norms = (2 if config.final_norm else 1) * _norm(tokens, width, FLOAT32)  # ln_pre and ln_post
    if config.attention_pool:
        heads = 8 * FLOAT32
        head = size * 3 * tokens * width + heads + _norm(1, width, size) + size * 11 * width
    else:  # in float32 the class token is saved as a view of all tokens
        head = width * size if size < FLOAT32 else tokens * width * size
    return Activations(
        ends=size * 3 * side**2 + norms + head,
        block=_block(tokens, width, config.heads, config.mlp_width, size, config.rope, config.layer_scale is not None),
        block_input=FLOAT32 * tokens * width,
        depth=config.depth,
    )


def text_activations(config: TextConfig, length: int | None = None, size: int = 2) -> Activations:
    """Of one text of `length` tokens, by default the context."""
    tokens, width = length or config.context_length, config.width
    indices = 8 * (tokens + 2)  # ids; which row, and where the text ends
    return Activations(
        ends=indices + _norm(1, width, FLOAT32) + size * width,
        block=_block(tokens, width, config.heads, 4 * width, size, rope=False, scaled=False),
        block_input=FLOAT32 * tokens * width,
        depth=config.depth,
    )


def _norm(tokens: int, width: int, size: int) -> int:
    """What a LayerNorm reads, and its mean and deviation."""
    return size * tokens * width + 2 * FLOAT32 * tokens


def _block(tokens: int, width: int, heads: int, hidden: int, size: int, rope: bool, scaled: bool) -> int:
    projected = 3 if not rope else 5  # queries, keys and values together; turned, queries and keys once more
    attended = 1 if not rope else 2  # as attention gives it, and for the output product, where the layouts differ
    branches = 2 if scaled else 0  # what LayerScale reads
    products = size * tokens * (width * (1 + projected + attended + 1 + branches) + 2 * hidden)
    return 2 * _norm(tokens, width, FLOAT32) + products + FLOAT32 * heads * tokens
