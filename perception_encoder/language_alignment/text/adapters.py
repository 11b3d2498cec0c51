"""Add, save, load and merge low-rank adapters (LoRA, with the library peft) of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, ConfigError, needs_extra
from perception_encoder.models.initialization import drawn_from
from perception_encoder.records import Checked, Count

TARGETS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
}
"""Names of the linear layers of a decoder's blocks in most families of transformers."""


@dataclass(frozen=True, kw_only=True)
class DecoderLoRA(Checked):
    """Adapters of the language model."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Count = 32
    """Adapters are scaled by alpha / rank."""
    targets: Literal["attention", "mlp", "all"] = "all"
    """Linear layers with adapters: "attention", "mlp" or "all"."""


def add_decoder_adapters(decoder: nn.Module, config: DecoderLoRA, generator: torch.Generator) -> list[nn.Parameter]:
    """Add adapters to a decoder, in place, and return their parameters, which alone are trained.

    Untrained adapters do not change the decoder's output. Raises ConfigError for a decoder without linear layers of the
    known names, and MissingExtraError without peft.
    """
    with needs_extra("lang", "peft"):
        from peft import LoraConfig, inject_adapter_in_model
    names = [name for group, names in TARGETS.items() if config.targets in (group, "all") for name in names]
    present = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    targets = sorted(present.intersection(names))
    if not targets:
        raise ConfigError(f"the language model has no linear layers called {', '.join(names)}; train without adapters")
    with drawn_from(generator):
        inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), decoder)
    adapters = [parameter for name, parameter in decoder.named_parameters() if "lora_" in name]
    for parameter in adapters:
        parameter.requires_grad_(True)
    return adapters


def adapter_state(decoder: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' weights by name."""
    return {name: value for name, value in decoder.state_dict().items() if "lora_" in name}


@torch.no_grad()
def load_adapters(decoder: nn.Module, config: DecoderLoRA, state: Mapping[str, Tensor]) -> None:
    """Add saved adapters to a decoder, in place, in float32; CheckpointError if they do not fit."""
    add_decoder_adapters(decoder, config, torch.Generator())
    expected = adapter_state(decoder)
    wrong = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
    if wrong:
        raise CheckpointError(f"the adapters do not fit this language model: {wrong[0]} and {len(wrong) - 1} others")
    for name in expected:
        decoder.get_parameter(name).data = state[name].float()


@torch.no_grad()
def merge_decoder_adapters(decoder: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Merge adapters, if any, into the weights they adapt, in place, and remove them.

    The sums are computed in float32, one layer at a time, and rounded to `dtype`.
    """
    if not adapter_state(decoder):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(decoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            adapted: Any = module
            adapted.float().merge()
            layer: Any = adapted.get_base_layer()
            setattr(decoder.get_submodule(parent), child, layer.to(dtype))
