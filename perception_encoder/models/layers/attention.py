"""Multi-head self-attention, with optional rotary positions and mask.

Parameters keep the published names and layout: queries, keys and values in one `in_proj`, in that order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.models.layers.rope import rotate

_SHORT = 256  # tokens up to which plain products train faster on a CPU (3.6-7.5x at 12-65, 1.2x at 197)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention over (B, heads, N, head_dim); torch's fused kernel, unless its CPU backward is slow."""
    trains_on_cpu = torch.is_grad_enabled() and q.requires_grad and q.device.type == "cpu"
    if not trains_on_cpu or k.shape[-2] > _SHORT or torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, N, N)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Self-attention over tokens (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend; `rope` is a `rope_table`, `mask` is boolean (B, 1, 1, N), True for visible tokens."""
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads_first = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries_keys, values = heads_first.split((2, 1))  # not slices: their gradients would be added up, not joined
        q, k = (queries_keys if rope is None else rotate(queries_keys, rope)).unbind(0)
        v = values[0]  # each (B, heads, N, head_dim)
        attended = attend(q, k, v, mask, causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, N, D)
