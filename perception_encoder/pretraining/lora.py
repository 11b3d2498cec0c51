"""Low-rank adapters (LoRA, by the library peft) on the linear maps of a model's transformer blocks.

A matrix W becomes W + (alpha / rank) B A, of which only A and B are trained, and beside them the logit scale: how far
apart the adapted vectors lie is learned with them. B begins as zero, so the model begins as it was. Merged, it is a
model like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.models.clip import CLIP
from perception_encoder.models.layers.block import Block
from perception_encoder.planning.cost import BlockCost, TowerCost
from perception_encoder.train.seed import torch_generator

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

TARGETS = ("attention", "mlp", "all")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Which adapters are trained."""

    rank: int = 8
    alpha: int = 16
    """What they add is scaled by alpha / rank."""
    targets: str = "all"
    """Which matrices of each block have one: "attention" (its projections in and out), "mlp" or "all"."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank}; it must be at least 1")
        if self.targets not in TARGETS:
            raise ConfigError(f"lora.targets is {self.targets!r}; it must be one of {', '.join(TARGETS)}")

    @property
    def of_attention(self) -> bool:
        """Whether the attention's projections are adapted."""
        return self.targets != "mlp"

    @property
    def of_mlp(self) -> bool:
        """Whether the feed-forward is adapted."""
        return self.targets != "attention"

    def parameters(self, width: int, hidden: int) -> int:
        """Numbers that the adapters of a block learn; `hidden`: between the feed-forward's layers."""
        attention = 2 * width + 4 * width if self.of_attention else 0
        return self.rank * (attention + (2 * (width + hidden) if self.of_mlp else 0))


def adapted_training(config: LoRA, cost: TowerCost) -> int:
    """Operations of one input of a tower, forward and backward, of which adapters alone are trained.

    A frozen matrix costs two products instead of three: its own gradient is not computed. That of the queries, keys and
    values is: peft adds their adapter to them, and that sum, which all inputs share, is left out.
    """
    block = cost.block
    of_block = 2 * block.total + block.attention + 3 * _adapters(config, block)
    if config.of_attention:
        of_block += block.projections_in
        unneeded = block.projections_in  # what the first block reads needs no gradient
    else:  # nor does anything before its feed-forward
        before = block.projections_in + 2 * block.attention + block.projection_out
        unneeded = before + block.end + 2 * block.tokens * config.rank * block.width
    return cost.embedding + cost.depth * of_block - unneeded + 2 * cost.head


def adapted_recomputed(config: LoRA, cost: TowerCost, checkpointing: bool = False, chunked: bool = False) -> int:
    """What that computes once more to save memory (`TowerCost.recomputed`)."""
    block, adapters = cost.block, _adapters(config, cost.block)
    last = 2 * block.tokens * config.rank * block.width if config.of_mlp else block.end
    again = cost.depth * (block.total + adapters - last) if checkpointing else 0
    return again + (cost.forward + cost.depth * adapters - cost.end if chunked else 0)


def _adapters(config: LoRA, block: BlockCost) -> int:
    """Of those that stand beside a block's matrices, forward."""
    beside = 2 * block.width if config.of_attention else 0
    beside += 2 * (block.width + block.hidden) if config.of_mlp else 0
    return 2 * block.tokens * config.rank * beside


def add_adapters(model: CLIP, config: LoRA, locked: str | None, seed: int) -> LoraModel:
    """Put adapters into a model, in place, but for a locked tower; nothing else of it is trained but the logit scale.

    MissingExtraError without peft.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    blocks = [name for name, module in model.named_modules() if isinstance(module, Block)]
    blocks = [name for name in blocks if locked is None or not name.startswith(f"{locked}.")]
    linear, parameters = list[str](), list[str]()
    if config.targets != "mlp":
        linear += [f"{name}.attn.out_proj" for name in blocks]
        parameters += [f"{name}.attn.in_proj_weight" for name in blocks]
    if config.targets != "attention":
        linear += [f"{name}.mlp.{part}" for name in blocks for part in ("c_fc", "c_proj")]
    asked = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=linear, target_parameters=parameters or None
    )
    adapters = LoraModel(model, asked, "default")
    model.logit_scale.requires_grad_(True)
    generator = torch_generator(seed, 1)  # peft draws from the global state
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
    return adapters


@torch.no_grad()
def merge_adapters(adapters: LoraModel) -> None:
    """Add what adapters learned to the weights that they adapt, in place, and take them out of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    while any(isinstance(module, BaseTunerLayer) for module in adapters.model.modules()):
        adapters.merge_and_unload()  # an adapter inside another module's adapter takes a second time
