"""Compute the floating-point operations of a model's matrix products from its configuration.

A product of (m, k) and (k, n) is 2·m·k·n operations; additions, norms and softmaxes are left out, as the field leaves
them out. Attention counts whole, causal or not. The gradient of a product is two more of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.models.config import TextConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """Operations of a transformer block's forward pass over one input, by part."""

    tokens: int
    width: int
    hidden: int
    """Width between the two layers of the feed-forward."""

    @property
    def projections_in(self) -> int:
        """Queries, keys and values."""
        return 6 * self.tokens * self.width**2

    @property
    def attention(self) -> int:
        """Scores and their use; neither has weights."""
        return 4 * self.tokens**2 * self.width

    @property
    def projection_out(self) -> int:
        """What is attended to, mixed."""
        return 2 * self.tokens * self.width**2

    @property
    def end(self) -> int:
        """The last product, the second of the feed-forward: recomputation stops before it."""
        return 2 * self.tokens * self.width * self.hidden

    @property
    def total(self) -> int:
        """All of it; the feed-forward's two products are of one size."""
        return self.projections_in + self.attention + self.projection_out + 2 * self.end


@dataclass(frozen=True, kw_only=True)
class TowerCost:
    """Operations of a tower's forward pass over one input, by part."""

    embedding: int
    """Patches to tokens; no gradient is needed of what it reads."""
    block: BlockCost
    depth: int
    head: int
    """Pooling and projection; the product that all inputs share, of the probe, is left out."""
    end: int
    """Of `head`, its last product."""

    @property
    def blocks(self) -> int:
        """Of all blocks."""
        return self.depth * self.block.total

    @property
    def forward(self) -> int:
        """All of it."""
        return self.embedding + self.blocks + self.head

    def training(self) -> int:
        """Forward and backward."""
        return 3 * self.forward - self.embedding

    def recomputed(self, checkpointing: bool = False, chunked: bool = False) -> int:
        """What training computes once more to save memory: every block, every chunk (`in_chunks`), or both."""
        return self._blocks_again(checkpointing) + (self.forward - self.end if chunked else 0)

    def masked_training(self) -> int:
        """A masked copy's: a pass over the whole picture without gradients, one over the masked with them, no head."""
        return 4 * (self.embedding + self.blocks) - self.embedding

    def masked_recomputed(self, checkpointing: bool = False, chunked: bool = False) -> int:
        """What a masked copy computes once more."""
        return self._blocks_again(checkpointing) + (2 * (self.embedding + self.blocks) if chunked else 0)

    def _blocks_again(self, checkpointing: bool) -> int:
        return self.blocks - self.depth * self.block.end if checkpointing else 0


def vision_cost(config: VisionConfig, image_size: int | None = None) -> TowerCost:
    """Of one square picture of `image_size` px, by default the configuration's."""
    patches = ((image_size or config.image_size) // config.patch_size) ** 2
    tokens, width = patches + int(config.class_token), config.width
    projection = 2 * width * (config.output_dim or 0)
    pooling = 4 * tokens * width**2 + 4 * tokens * width + 18 * width**2 if config.attention_pool else 0
    return TowerCost(
        embedding=2 * patches * 3 * config.patch_size**2 * width,
        block=BlockCost(tokens=tokens, width=width, hidden=config.mlp_width),
        depth=config.depth,
        head=pooling + projection,
        end=projection,
    )


def text_cost(config: TextConfig, length: int | None = None) -> TowerCost:
    """Of one text of `length` tokens, by default the context."""
    tokens, width = length or config.context_length, config.width
    projection = 2 * width * config.output_dim
    return TowerCost(
        embedding=0,
        block=BlockCost(tokens=tokens, width=width, hidden=4 * width),
        depth=config.depth,
        head=projection,
        end=projection,
    )


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
