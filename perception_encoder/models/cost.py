"""What a model costs, from formulas: parameters, and the floating-point operations of its matrix products.

A product of (m, k) and (k, n) is 2·m·k·n operations; additions, norms and softmaxes are left out, as the field leaves
them out. Attention counts whole, causal or not. The gradient of a product is two more of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.models.config import TextConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class TowerCost:
    """Operations of a tower's forward pass over one input, by part."""

    embedding: int
    """Patches to tokens; no gradient is needed of what it reads."""
    blocks: int
    head: int
    """Pooling and projection; the product that all inputs share, of the probe, is left out."""
    block_ends: int
    """Of `blocks`, each block's last product: recomputation stops before it."""
    end: int
    """Of `head`, its last product."""

    @property
    def forward(self) -> int:
        """All of it."""
        return self.embedding + self.blocks + self.head

    def training(self) -> int:
        """Forward and backward."""
        return 3 * self.forward - self.embedding

    def recomputed(self, checkpointing: bool = False, chunked: bool = False) -> int:
        """What training computes once more to save memory: every block, every chunk (`in_chunks`), or both."""
        blocks = self.blocks - self.block_ends if checkpointing else 0
        return blocks + (self.forward - self.end if chunked else 0)

    def masked_training(self) -> int:
        """A masked copy's: a pass over the whole picture without gradients, one over the masked with them, no head."""
        return 4 * (self.embedding + self.blocks) - self.embedding

    def masked_recomputed(self, checkpointing: bool = False, chunked: bool = False) -> int:
        """What a masked copy computes once more."""
        blocks = self.blocks - self.block_ends if checkpointing else 0
        return blocks + (2 * (self.embedding + self.blocks) if chunked else 0)


def vision_cost(config: VisionConfig, image_size: int | None = None) -> TowerCost:
    """Of one square picture of `image_size` px, by default the configuration's."""
    patches = ((image_size or config.image_size) // config.patch_size) ** 2
    tokens, width = patches + int(config.class_token), config.width
    projection = 2 * width * (config.output_dim or 0)
    pooling = 4 * tokens * width**2 + 4 * tokens * width + 18 * width**2 if config.attention_pool else 0
    return TowerCost(
        embedding=2 * patches * 3 * config.patch_size**2 * width,
        blocks=config.depth * _block(tokens, width, config.mlp_width),
        head=pooling + projection,
        block_ends=config.depth * 2 * tokens * width * config.mlp_width,
        end=projection,
    )


def text_cost(config: TextConfig, length: int | None = None) -> TowerCost:
    """Of one text of `length` tokens, by default the context."""
    tokens, width = length or config.context_length, config.width
    projection = 2 * width * config.output_dim
    return TowerCost(
        embedding=0,
        blocks=config.depth * _block(tokens, width, 4 * width),
        head=projection,
        block_ends=config.depth * 2 * tokens * width * 4 * width,
        end=projection,
    )


def _block(tokens: int, width: int, hidden: int) -> int:
    """Queries, keys, values and output; scores and their use; the two layers of the feed-forward."""
    return 8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * hidden


def training_flops(
    vision: VisionConfig,
    text: TextConfig,
    *,
    image_size: int | None = None,
    length: int | None = None,
    masked: float = 0.0,
) -> float:
    """Of one pair of a picture and a text, forward and backward, without its part of the loss.

    `masked`: share of the pictures that have a masked copy. Nothing is computed twice.
    """
    pictures = vision_cost(vision, image_size)
    return pictures.training() + masked * pictures.masked_training() + text_cost(text, length).training()


def contrastive_flops(batch: int, width: int) -> int:
    """Of the contrastive loss, forward and backward, for each of `batch` pairs of features of `width`."""
    return 12 * batch * width


def vision_parameters(config: VisionConfig) -> int:
    """Numbers that a vision tower learns."""
    width = config.width
    stem = 3 * config.patch_size**2 * width + (2 * int(config.class_token) + config.grid**2) * width + 2 * width
    scales = 0 if config.layer_scale is None else 2 * width
    pooling = 12 * width**2 + 12 * width if config.attention_pool else 0
    head = (2 * width if config.final_norm else 0) + pooling + width * (config.output_dim or 0)
    return stem + config.depth * (block_parameters(width, config.mlp_width) + scales) + head


def text_parameters(config: TextConfig) -> int:
    """Numbers that a text tower learns."""
    width = config.width
    tables = (config.vocabulary + config.context_length) * width
    return tables + config.depth * block_parameters(width, 4 * width) + 2 * width + width * config.output_dim


def block_parameters(width: int, hidden: int) -> int:
    """Of one transformer block, without LayerScale: two norms, attention, feed-forward."""
    return 4 * width + 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width
