"""Train low-rank adapters (LoRA, with the library peft) on the linear layers of transformer blocks.

A matrix W becomes W + (alpha / rank) B A. Only A, B and the logit scale are trained. B starts at zero, so the model
starts unchanged. After merging it is a model like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from perception_encoder.errors import needs_extra
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import Block
from perception_encoder.records import Checked, Count

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel


@dataclass(frozen=True, kw_only=True)
class LoRA(Checked):
    """Low-rank adapters to train."""

    rank: Count = 8
    """Rank of the adapters."""
    alpha: Count = 16
    """The adapters' output is scaled by alpha / rank."""
    targets: Literal["attention", "mlp", "all"] = "all"
    """Matrices of each block to adapt: "attention" (its input and output projections), "mlp" or "all"."""


def add_adapters(model: CLIP, config: LoRA, locked: str | None, seed: int) -> LoraModel:
    """Add adapters to a model in place, except to a locked tower; only they and the logit scale are trained.

    MissingExtraError without peft.
    """
    with needs_extra("train", "peft"):
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    blocks = [name for name, module in model.named_modules() if isinstance(module, Block)]
    blocks = [name for name in blocks if locked is None or not name.startswith(f"{locked}.")]
    linear, parameters = list[str](), list[str]()
    if config.targets != "mlp":
        linear += [f"{name}.attn.out_proj" for name in blocks]
        parameters += [f"{name}.attn.in_proj_weight" for name in blocks]
    if config.targets != "attention":
        linear += [f"{name}.mlp.{part}" for name in blocks for part in ("c_fc", "c_proj")]
    config_of_peft = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=linear, target_parameters=parameters or None
    )
    adapters = LoraModel(model, config_of_peft, "default")
    model.logit_scale.requires_grad_(True)
    generator = torch_generator(seed, 1)  # peft draws from the global state
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
    return adapters


@torch.no_grad()
def merge_adapters(adapters: LoraModel) -> None:
    """Merge adapters into the weights in place, and remove them from the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    while any(isinstance(module, BaseTunerLayer) for module in adapters.model.modules()):
        adapters.merge_and_unload()  # nested adapters need a second pass
