"""LAMB (timm's) or AdamW, with the weight decay that the field uses: matrices decay, all else does not."""

from __future__ import annotations

from dataclasses import dataclass

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
    max_grad_norm: float = 1.0
    """The whole gradient is scaled down to this norm, as timm's LAMB does by default."""

    def __post_init__(self) -> None:
        if self.name not in ("lamb", "adamw"):
            raise ConfigError(f"the optimizer is {self.name!r}; it must be 'lamb' or 'adamw'")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters; MissingExtraError where LAMB is asked for without timm."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if decays(name, parameter) else exempt).append(parameter)
    plain_lr = config.lr if config.plain_lr is None else config.plain_lr
    groups = [
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
    return Lamb(groups, lr=config.lr, betas=config.betas, max_grad_norm=None)  # the loop clips, over all ranks


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases, norms, scales, embeddings of positions, tokens or classes."""
    return parameter.ndim >= 2 and not name.endswith(("embedding", "embedding.weight", "probe"))
