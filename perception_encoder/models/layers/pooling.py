"""Attention pooling: one learned probe attends to every token (step 7 of section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.models.layers.attention import Attention, attend
from perception_encoder.models.layers.block import FeedForward


class ProbeAttention(Attention):
    """Cross-attention of a probe to tokens, on `Attention`'s parameters."""

    def pool(self, probe: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Probe (1, 1, D) over tokens (B, N, D) → (B, 1, D)."""
        width = probe.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = F.linear(probe, weight[:width], bias[:width]).expand(tokens.shape[0], -1, -1)
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, 1, head_dim)
        keys_values = F.linear(tokens, weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1))
        k, v = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(q, k, v, mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def pool_frozen(self, probe: Tensor, tokens: Tensor) -> Tensor:
        """`pool` at a fraction of its cost if tokens need no gradient: keys and values are never computed.

        The probe goes through the keys' weights instead, and what each head attends to through the values'. A bias of
        the keys moves all of a head's scores alike, so it drops out; one of the values is added once.
        """
        width = probe.shape[-1]
        query = F.linear(probe[0, 0], self.in_proj_weight[:width], self.in_proj_bias[:width])
        _, keys, values = self.in_proj_weight.unflatten(0, (3, self.heads, -1)).unbind(0)  # (heads, head_dim, D)
        weights = torch.einsum("hd,hdw->hw", query.unflatten(0, (self.heads, -1)), keys)  # (heads, D)
        scores = tokens @ weights.T / (width // self.heads) ** 0.5  # (B, N, heads)
        attended = scores.softmax(dim=1).transpose(1, 2) @ tokens  # (B, heads, D)
        pooled = torch.einsum("bhw,hdw->bhd", attended, values).flatten(1) + self.in_proj_bias[2 * width :]
        return self.out_proj(pooled[:, None])


class AttentionPooling(nn.Module):
    """Pool tokens (B, N, D) to (B, D): the probe attends to all of them, then `x + mlp(layernorm(x))`."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attn = ProbeAttention(width, heads)
        self.layernorm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._finish(self.attn.pool(self.probe, tokens, mask))

    def forward_frozen(self, tokens: Tensor) -> Tensor:
        """The same, cheaper, of tokens that need no gradient."""
        return self._finish(self.attn.pool_frozen(self.probe, tokens))

    def _finish(self, x: Tensor) -> Tensor:
        return (x + self.mlp(self.layernorm(x)))[:, 0]
