"""Build the optimizer (timm's LAMB, AdamW or SGD) and schedule the learning rate.

Weight decay applies to matrices only, as usual. LAMB scales the step of each decaying tensor to the tensor's norm (the
trust ratio), even if the decay is 0. Exempt tensors (biases, norms, scales and, by default, tables) take plain Adam
steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from perception_encoder.errors import ConfigError, needs_extra
from perception_encoder.records import Checked, Positive, ShareAboveZero, ShareBelowOne, Weight

_BLOCK = re.compile(r"(?P<tower>.*?)(?:transformer\.resblocks|blocks)\.(?P<number>\d+)\.")
_TABLE = re.compile(r"((?<!patch_)embeddings?(\.weight)?|pos_embed|_tokens?|probe|latent)$")
"""Names of tables of tokens and positions, and of pooling probes, in any library's towers."""
_EMBEDDING = re.compile(r"conv1|patch_embed|embedding|pos_embed|cls_token|ln_pre|norm_pre")
"""Names of a tower's modules before its first block."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """The optimizer's settings; the defaults are the paper's (appendix B.1.1)."""

    name: Literal["lamb", "adamw", "sgd"] = "lamb"
    """"lamb" (step 4 of section 2.1), "adamw", or "sgd" with momentum, the first of `betas`."""
    lr: Positive = 2e-3
    """Peak learning rate."""
    plain_lr: Positive | None = None
    """Peak rate of the tensors that do not decay, by default `lr`; they take plain Adam steps."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)
    """Decay rates of the running means of the gradients and of their squares."""
    weight_decay: Weight = 0.05
    """Weight decay of matrices; at 0 LAMB still scales their steps."""
    decay_tables: bool = False
    """Whether the token table, the position tables and the pooling probe decay and take LAMB's scaled steps, as in
    open_clip, which exempts only vectors and scalars; else they are exempt too. The paper leaves it open."""
    decay_all: bool = False
    """Apply weight decay to vectors and scalars too, as detectron2, DETA and PLM do."""
    slow: tuple[str, ...] = ()
    """Parameters whose names contain one of these train at a tenth of the rate, such as DETA's `sampling_offsets`."""
    max_grad_norm: Positive | None = 1.0
    """Maximum norm of the whole gradient, as in timm's LAMB by default; null: no clipping."""
    layer_decay: ShareAboveZero | None = None
    """Factor of the rate from each block of a tower to the one below it, starting with the last block; everything above
    the blocks has the full rate (Clark et al., 2020). ViTDet's: 0.9 for G, 0.8 for L."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a model's trainable parameters; MissingExtraError for LAMB without timm."""
    scales = layer_scales(model, config.layer_decay)
    members: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            slow = 0.1 if any(part in name for part in config.slow) else 1.0
            decayed = config.decay_all or decays(name, parameter, config.decay_tables)
            kind = slow * scales.get(name, 1.0), decayed
            members.setdefault(kind, []).append(parameter)
    plain_lr = config.lr if config.plain_lr is None else config.plain_lr
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr": scale * (config.lr if decayed else plain_lr),
        }
        for (scale, decayed), parameters in members.items()
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0])
    if config.name == "adamw":
        fused = not any(isinstance(parameter, DTensor) for parameter in model.parameters())  # it cannot mix kinds
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    with needs_extra("train", "timm"):
        from timm.optim import Lamb
    for group, (_, decayed) in zip(groups, members, strict=True):
        if decayed:
            group["always_adapt"] = True  # or timm's LAMB is Adam if nothing decays
    return Lamb(groups, lr=config.lr, betas=config.betas, max_grad_norm=None)  # the loop clips, over all ranks


def decays(name: str, parameter: nn.Parameter, tables: bool = False) -> bool:
    """Return whether weight decay applies to a parameter: not to biases, norms, scales or (without `tables`) tables.

    Tables are those of tokens and positions, and the probe. With `tables` this is open_clip's rule.
    """
    return parameter.ndim >= 2 and (tables or not _TABLE.search(name))


def layer_scales(model: nn.Module, decay: float | None) -> dict[str, float]:
    """Return the rate factors, by name, of trained parameters in and below each tower's blocks; empty without a decay.

    Raises ConfigError without trained blocks called `resblocks` or `blocks`.
    """
    if decay is None:
        return {}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    blocks = {name: match for name in names if (match := _BLOCK.match(name))}
    if not blocks:
        raise ConfigError(
            f"optimizer.layer_decay is {decay}, but the model has no known blocks to train; set it to null"
        )
    depths: dict[str, int] = {}
    for match in blocks.values():
        depths[match["tower"]] = max(depths.get(match["tower"], 0), 1 + int(match["number"]))
    scales = {name: decay ** (depths[match["tower"]] - int(match["number"])) for name, match in blocks.items()}
    for tower, depth in depths.items():
        below = [name for name in names if name.startswith(tower) and name not in blocks and _EMBEDDING.search(name)]
        scales |= dict.fromkeys(below, decay ** (depth + 1))
    return scales


def learning_rate(step: int, steps: int, warmup: int, drops: Sequence[float] = (), floor: float = 0.0) -> float:
    """Return the rate at a 0-based step as a share of the peak.

    A linear warm-up, then a cosine to `floor`, or with `drops` a fall to a tenth after each of these shares of the
    steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    if drops:
        return float(0.1 ** sum(step >= drop * steps for drop in drops))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
