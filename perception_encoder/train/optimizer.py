"""LAMB (timm's) or AdamW, with the field's weight decay (of matrices alone), and the schedule of the learning rate.

LAMB scales the step of each decaying tensor to the tensor's norm (the trust ratio), whatever the decay is, 0 included.
The exempt tensors (biases, norms, scales and, by default, tables) take plain Adam steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from perception_encoder.errors import ConfigError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer's settings; the defaults are the paper's (appendix B.1.1)."""

    name: str = "lamb"
    """"lamb" (step 4 of section 2.1) or "adamw"."""
    lr: float = 2e-3
    """Peak learning rate."""
    plain_lr: float | None = None
    """Peak rate of what does not decay, by default `lr`; it takes Adam's plain steps, not steps scaled to its norm."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    """Of matrices; at 0 LAMB still scales their steps."""
    decay_tables: bool = False
    """Whether the token table, the position tables and the pooling probe decay and take LAMB's scaled steps, as in
    open_clip, which exempts only vectors and scalars; else they are exempt too. The paper leaves it open."""
    max_grad_norm: float = 1.0
    """The whole gradient is scaled down to this norm, as timm's LAMB does by default."""

    def __post_init__(self) -> None:
        if self.name not in ("lamb", "adamw"):
            raise ConfigError(f"the optimizer is {self.name!r}; it must be 'lamb' or 'adamw'")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a model's trainable parameters; MissingExtraError for LAMB without timm."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if decays(name, parameter, config.decay_tables) else exempt).append(parameter)
    plain_lr = config.lr if config.plain_lr is None else config.plain_lr
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": exempt, "weight_decay": 0.0, "lr": plain_lr},
    ]
    if config.name == "adamw":
        fused = not any(isinstance(parameter, DTensor) for parameter in model.parameters())  # it takes one kind alone
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    try:
        from timm.optim import Lamb
    except ImportError:
        raise MissingExtraError("timm", "train") from None
    groups[0]["always_adapt"] = True  # or timm's LAMB is Adam if nothing decays
    return Lamb(groups, lr=config.lr, betas=config.betas, max_grad_norm=None)  # the loop clips, over all ranks


def decays(name: str, parameter: nn.Parameter, tables: bool = False) -> bool:
    """Whether weight decay applies: never to biases, norms and scales, and only with `tables` to tables.

    Tables are those of tokens and positions, and the probe. With `tables` this is open_clip's rule.
    """
    return parameter.ndim >= 2 and (tables or not name.endswith(("embedding", "embedding.weight", "probe")))


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate at `step` (0-based) of `steps`: a linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
