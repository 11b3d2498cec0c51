"""Pre-norm transformer blocks and the stack of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perception_encoder.models.layers.attention import Attention


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class LayerScale(nn.Module):
    """A learned factor a channel on a residual branch, small at first."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm and around a residual."""

    def __init__(self, width: int, heads: int, hidden: int, layer_scale: float | None = None) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ls_1 = LayerScale(width, layer_scale) if layer_scale is not None else nn.Identity()
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)
        self.ls_2 = LayerScale(width, layer_scale) if layer_scale is not None else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        branches: Tensor | None = None,
    ) -> Tensor:
        """`branches` (2, B): factors of the two residual branches, sample by sample; see `drop_path`."""
        attention = self.ls_1(self.attn(self.ln_1(x), rope, mask, causal))
        x = x + (attention if branches is None else attention * branches[0, :, None, None])
        mlp = self.ls_2(self.mlp(self.ln_2(x)))
        return x + (mlp if branches is None else mlp * branches[1, :, None, None])

    @torch.no_grad()
    def add_layer_scale(self, initial: float) -> None:
        """Put LayerScale into a block without one; the maps before it grow by as much, so that nothing changes yet."""
        width = self.ln_1.normalized_shape[0]
        for last in (self.attn.out_proj, self.mlp.c_proj):
            last.weight.div_(initial)
            last.bias.div_(initial)
        self.ls_1, self.ls_2 = LayerScale(width, initial), LayerScale(width, initial)
        self.to(last.weight)


def drop_path(depth: int, batch: int, rate: float, generator: torch.Generator, linear: bool = False) -> Tensor:
    """Draw stochastic depth: factors (depth, 2, batch) of residual branches, 0 or 1 / (1 - rate).

    `rate`: the probability of 0, the same for all blocks, as in the reference's encoders; with `linear` that of the
    last block, from 0 for the first, as in its detectors. `Transformer.forward` takes them.
    """
    if linear:
        rates = torch.linspace(0, rate, depth)[:, None, None]
        return (torch.rand(depth, 2, batch, generator=generator) >= rates) / (1 - rates)
    return (torch.rand(depth, 2, batch, generator=generator) >= rate) / (1 - rate)


class Transformer(nn.Module):
    """A stack of blocks; `checkpointing` trades a second forward pass for activation memory."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, layer_scale: float | None = None):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, hidden, layer_scale) for _ in range(depth))
        self.checkpointing = False

    def run_block(
        self,
        index: int,
        x: Tensor,
        rope: Tensor | None,
        mask: Tensor | None,
        causal: bool = False,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Run one block on tokens (B, N, D)."""
        block = self.resblocks[index]
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, rope, mask, causal, branches, use_reentrant=False)
        return block(x, rope, mask, causal, branches)

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        branches: Tensor | None = None,
    ) -> Tensor:
        """`branches` (depth, 2, B): factors of the residual branches; see `drop_path`."""
        for index in range(len(self.resblocks)):
            x = self.run_block(index, x, rope, mask, causal, None if branches is None else branches[index])
        return x
