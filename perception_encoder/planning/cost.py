"""Compute the floating-point operations of a model's matrix products from its configuration.

A product of (m, k) and (k, n) is 2·m·k·n operations; additions, norms and softmaxes are left out, as the field leaves
them out. Attention counts whole, causal or not. The gradient of a product is two more of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
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
        """A masked copy's: a pass over the whole image without gradients, one over the masked with them, no head."""
        return 4 * (self.embedding + self.blocks) - self.embedding

    def masked_recomputed(self, checkpointing: bool = False, chunked: bool = False) -> int:
        """What a masked copy computes once more."""
        return self._blocks_again(checkpointing) + (2 * (self.embedding + self.blocks) if chunked else 0)

    def _blocks_again(self, checkpointing: bool) -> int:
        return self.blocks - self.depth * self.block.end if checkpointing else 0


def vision_cost(config: VisionConfig, image_size: int | None = None) -> TowerCost:
    """Of one square image of `image_size` px, by default the configuration's."""
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
    """Of one pair of an image and a text, forward and backward, without its part of the loss.

    `masked`: share of the images that have a masked copy. Nothing is computed twice.
    """
    images = vision_cost(vision, image_size)
    return images.training() + masked * images.masked_training() + text_cost(text, length).training()


def contrastive_flops(batch: int, width: int) -> int:
    """Of the contrastive loss, forward and backward, for each of `batch` pairs of features of `width`."""
    return 12 * batch * width


class Adapters(Protocol):
    """Low-rank adapters beside the matrices of each block."""

    @property
    def rank(self) -> int: ...
    @property
    def of_attention(self) -> bool: ...
    @property
    def of_mlp(self) -> bool: ...


def adapter_parameters(adapters: Adapters, width: int, hidden: int) -> int:
    """Return the parameters of a block's adapters; `hidden`: width between the feed-forward's layers."""
    attention = 2 * width + 4 * width if adapters.of_attention else 0
    return adapters.rank * (attention + (2 * (width + hidden) if adapters.of_mlp else 0))


def adapted_training(adapters: Adapters, cost: TowerCost) -> int:
    """Return operations of one input of a tower, forward and backward, of which only adapters are trained.

    A frozen matrix costs two products instead of three: its own gradient is not computed. That of the queries, keys and
    values is: peft adds their adapter to them, and that sum, which all inputs share, is left out.
    """
    block = cost.block
    of_block = 2 * block.total + block.attention + 3 * _adapters_forward(adapters, block)
    if adapters.of_attention:
        of_block += block.projections_in
        unneeded = block.projections_in  # what the first block reads needs no gradient
    else:  # nor does anything before its feed-forward
        before = block.projections_in + 2 * block.attention + block.projection_out
        unneeded = before + block.end + 2 * block.tokens * adapters.rank * block.width
    return cost.embedding + cost.depth * of_block - unneeded + 2 * cost.head


def adapted_recomputed(adapters: Adapters, cost: TowerCost, checkpointing: bool = False, chunked: bool = False) -> int:
    """Return what that recomputes to save memory (`TowerCost.recomputed`)."""
    block, extra = cost.block, _adapters_forward(adapters, cost.block)
    last = 2 * block.tokens * adapters.rank * block.width if adapters.of_mlp else block.end
    again = cost.depth * (block.total + extra - last) if checkpointing else 0
    return again + (cost.forward + cost.depth * extra - cost.end if chunked else 0)


def _adapters_forward(adapters: Adapters, block: BlockCost) -> int:
    """Return operations of the adapters beside a block's matrices, forward."""
    beside = 2 * block.width if adapters.of_attention else 0
    beside += 2 * (block.width + block.hidden) if adapters.of_mlp else 0
    return 2 * block.tokens * adapters.rank * beside


class TeacherCost:
    """Operations of a frozen teacher, by formula for a plan, and counted as it runs.

    `images`, `captions`: shares of the run's pairs of which it encodes them, each caption as long as its context.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig, images: float = 1.0, captions: float = 1.0) -> None:
        self.vision, self.text, self.images, self.captions = vision, text, images, captions
        self._counted = 0.0
        self.pair = images * vision_cost(vision).forward + captions * text_cost(text).forward
        """Operations of a pair, on the mean of the run."""

    def watch(self, model: CLIP) -> None:
        """Count every pass of this model, by its inputs."""

        def count_images(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._counted += len(inputs[0]) * vision_cost(self.vision, inputs[0].shape[-1]).forward

        def count_texts(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._counted += len(inputs[0]) * text_cost(self.text, inputs[0].shape[1]).forward

        model.visual.register_forward_pre_hook(count_images)
        model.text.register_forward_pre_hook(count_texts)

    def take(self) -> float:
        """Return the operations counted since the last call."""
        counted, self._counted = self._counted, 0.0
        return counted
